"""How far an estimated camera path is from the true one: ATE, RPE and KITTI's segment errors.

Trajectories are world_from_cam [S, 3, 4], pose i of the estimate belonging to pose i of the truth; the two
worlds may differ by the similarity that `align` allows, which is fitted on camera centres and applied to the
whole estimate first. Lengths are in the truth's units (metres, as the names say, when it is metric).
Everything is float64. Sources: Sturm et al. 2012 (ATE, RPE), Umeyama 1991, the KITTI odometry development kit
(segment errors). Shapes: S poses, G segments.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import fit_kabsch, fit_umeyama
from scal3r_train.metrics.kitti_segments import segment_errors
from scal3r_train.metrics.relative_pose import angle_between_rotations_deg

AlignMode = Literal["sim3", "se3", "none"]
MIN_POSES = 3


@dataclass(frozen=True)
class TrajectoryScore:
    """All errors of one trajectory.

    `ate_rmse_m`: rms distance of aligned camera centres. `ate_percent`: that over the truth's path length,
    None for a truth that never moves. `rre_deg_per_100m`, `rte_m_per_100m`: KITTI's mean errors over segments
    of 100 to 800 m, None when the truth is too short for any. `rpe_translation_m`, `rpe_rotation_deg`: rms
    error of the motion from pose to pose. `scale`: what the estimate was multiplied by (0 for a static
    estimate under sim3).
    """

    ate_rmse_m: float
    ate_percent: float | None
    rre_deg_per_100m: float | None
    rte_m_per_100m: float | None
    rpe_translation_m: float
    rpe_rotation_deg: float
    scale: float
    num_poses: int
    path_length_m: float

    def as_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


def score_trajectory(estimate: Tensor, truth: Tensor, align: AlignMode = "sim3") -> TrajectoryScore:
    """Align `estimate` [S, 3, 4] to `truth` [S, 3, 4] and measure it.

    An estimate whose centres all coincide gets scale 0 under sim3: its ATE is then the rms distance of the
    truth from its own centroid, the error of knowing nothing. On a straight line the rotation about it is
    open, and no error depends on it. Raises UserError for fewer than 3 poses or numbers that are not finite.
    """
    estimate, truth = _checked(estimate, "estimate"), _checked(truth, "ground truth")
    assert estimate.shape == truth.shape, (estimate.shape, truth.shape)
    sim3 = align_trajectory(estimate, truth, align)
    aligned = sim3.apply_to_world_from_cam(estimate)
    ate = _rms((aligned[..., 3] - truth[..., 3]).norm(dim=-1))
    path_length = (truth[1:, :, 3] - truth[:-1, :, 3]).norm(dim=-1).sum().item()
    translation_errors, rotation_errors = _motion_errors(aligned, truth)
    segments = segment_errors(aligned, truth)
    return TrajectoryScore(
        ate_rmse_m=ate,
        ate_percent=100 * ate / path_length if path_length > 0 else None,
        rre_deg_per_100m=segments.rotation_deg_per_100m if segments else None,
        rte_m_per_100m=segments.translation_m_per_100m if segments else None,
        rpe_translation_m=_rms(translation_errors),
        rpe_rotation_deg=_rms(rotation_errors),
        scale=sim3.scale.item(),
        num_poses=len(truth),
        path_length_m=path_length,
    )


def align_trajectory(estimate: Tensor, truth: Tensor, align: AlignMode) -> Sim3:
    """The least-squares truth_from_estimate on camera centres of world_from_cam [S, 3, 4]."""
    if align == "none":
        return Sim3.identity(estimate.device)
    fit = fit_umeyama if align == "sim3" else fit_kabsch
    return fit(estimate[..., 3], truth[..., 3])


def _motion_errors(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [S - 1] of the motion between successive poses: distance, and angle in degrees."""
    true_motion = compose_extrinsics(invert_extrinsics(truth[:-1]), truth[1:])
    motion = compose_extrinsics(invert_extrinsics(estimate[:-1]), estimate[1:])
    distance = (motion[..., 3] - true_motion[..., 3]).norm(dim=-1)
    return distance, angle_between_rotations_deg(motion[..., :3], true_motion[..., :3])


def _checked(world_from_cam: Tensor, name: str) -> Tensor:
    """The trajectory as float64; enough poses, all finite."""
    if len(world_from_cam) < MIN_POSES:
        raise UserError(f"the {name} has {len(world_from_cam)} poses; scoring needs at least {MIN_POSES}")
    finite = world_from_cam.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise UserError(f"pose {int(finite.int().argmin())} of the {name} is not finite; repair or remove it")
    return world_from_cam.double()


def _rms(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()
