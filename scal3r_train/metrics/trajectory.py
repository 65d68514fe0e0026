"""How far an estimated camera path is from the true one: ATE, RPE, KITTI's segment errors and pairwise AUC.

Trajectories are world_from_cam [S, 3, 4], pose i of the estimate belonging to pose i of the truth; the two
worlds may differ by the similarity that `align` allows, which is fitted on camera centres and applied to the
whole estimate first. Lengths are in the truth's units (metres, as the names say, when it is metric).
Everything is float64. Where some frames alone have a pose, steps and segments go by the frames' numbers.

KITTI's segments are those of its development kit: they start at every 10th pose and end at the first pose farther
along the true path than the segment's length (100 to 800 m); the error is that of the motion over the segment,
divided by its nominal length; the mean is over all segments of all lengths. Where some frames alone have a pose, the
tens are counted in frames, so that segments start where those of the whole path do. Rotations are used as they come,
inverted as general matrices and measured by their trace: files round to 7 digits, which shows in the fifth digit of
published numbers (KITTI 00 by ORB-SLAM2: 0.25333 deg/100 m, but 0.25332 with rotations made orthonormal first).

Sources: Sturm et al. 2012 (ATE, RPE), Umeyama 1991, the KITTI odometry development kit
(segment errors), VGGT's protocol (AUC); docs/metrics.md. Shapes: S poses, G segments.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import fit_kabsch, fit_umeyama
from scal3r_train.metrics.relative_pose import (
    RpeStep,
    choose_pairs,
    motion_errors,
    pose_auc,
    relative_pose_errors_deg,
)

SEGMENT_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
STEP = 10  # frames between starts
AlignMode = Literal["sim3", "se3", "scale", "none"]
MIN_POSES = 3
RANK_TOLERANCE = 1e-6  # of the largest spread: files keep six digits and more
ROUNDING = 1e-10  # of the largest coordinate, below which nothing is a spread
MAX_AUC_PAIRS = 250_000  # the standard error of a share is then below 0.001
NEXT_FRAME = RpeStep()


@dataclass(frozen=True)
class SegmentErrors:
    """Mean errors over all segments, per 100 m of the segments' nominal length."""

    translation_m_per_100m: float
    rotation_deg_per_100m: float
    num_segments: int


def segment_errors(estimate: Tensor, truth: Tensor, frames: Tensor | None = None) -> SegmentErrors | None:
    """Mean segment errors of aligned world_from_cam [S, 3, 4] float64; None when no segment fits.

    `frames` [S]: see `find_segments`.
    """
    first, last, length = find_segments(truth[..., 3], frames)
    if not len(first):
        return None
    motion, true_motion = _relative(estimate[first], estimate[last]), _relative(truth[first], truth[last])
    error = _relative(motion, true_motion)
    cosine = (error[..., :3].diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle_deg = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    translation = 100 * (error[..., 3].norm(dim=-1) / length).mean()
    rotation = 100 * (angle_deg / length).mean()
    return SegmentErrors(translation.item(), rotation.item(), len(first))


def find_segments(centres: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """First pose [G], last pose [G] and nominal length [G] of all segments of a path of centres [S, 3].

    With `frames` [S] int64 ascending, the frame number of each pose, a segment starts in each of the frames 0 to 9,
    10 to 19, ..: at the first pose there, nowhere where none has one. Without, poses are frames.
    """
    steps = (centres[1:] - centres[:-1]).norm(dim=-1)
    travelled = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    if frames is None:
        frames = torch.arange(len(centres), device=centres.device)
    tens = frames // STEP
    starts = torch.cat([tens.new_ones(1), tens.diff()]).nonzero()[:, 0]
    lengths = centres.new_tensor(SEGMENT_LENGTHS_M)
    ends = torch.searchsorted(travelled, travelled[starts, None] + lengths, right=True)
    fits = ends < len(centres)
    first = starts[:, None].expand_as(ends)[fits]
    return first, ends[fits], lengths.expand(ends.shape)[fits]


def _relative(first: Tensor, last: Tensor) -> Tensor:
    """first^-1 last of poses [G, 3, 4], whatever their 3 x 3 blocks."""
    offset = torch.cat([last[..., :3], last[..., 3:] - first[..., 3:]], dim=-1)
    return torch.linalg.solve(first[..., :3], offset)


@dataclass(frozen=True)
class TrajectoryScore:
    """All errors of one trajectory.

    `ate_rmse_m`: rms distance of aligned camera centres; `ate_mean_m`, `ate_median_m`, `ate_max_m` likewise.
    `ate_percent`: the rms over the truth's path length, None for a truth that never moves.
    `rre_deg_per_100m`, `rte_m_per_100m`: KITTI's mean errors over segments of 100 to 800 m, None when the truth is too
    short for any. `rpe_translation_m`, `rpe_rotation_deg`: rms error of the motion over `num_rpe_pairs` steps, from
    frame to frame by default; None when no step fits. `auc_3`, .., `auc_30`: area under the accuracy curve of relative
    poses up to so many degrees, 0..1, over `num_auc_pairs` pairs (all, or `choose_pairs` of MAX_AUC_PAIRS).
    `scale`: what the estimate was multiplied by (0 for a static estimate under sim3 and scale).
    """

    ate_rmse_m: float
    ate_mean_m: float
    ate_median_m: float
    ate_max_m: float
    ate_percent: float | None
    rre_deg_per_100m: float | None
    rte_m_per_100m: float | None
    rpe_translation_m: float | None
    rpe_rotation_deg: float | None
    num_rpe_pairs: int
    auc_3: float
    auc_5: float
    auc_15: float
    auc_30: float
    num_auc_pairs: int
    scale: float
    num_poses: int
    path_length_m: float

    def as_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


def score_trajectory(
    estimate: Tensor,
    truth: Tensor,
    align: AlignMode = "sim3",
    rpe_step: RpeStep = NEXT_FRAME,
    frames: Tensor | None = None,
) -> TrajectoryScore:
    """Align `estimate` [S, 3, 4] to `truth` [S, 3, 4] and measure it.

    `frames` [S] int64 ascending: the frame number of each pose, for a path with poses on some frames alone. Steps of
    the RPE then are pairs of frames and KITTI's segments start every 10 frames, as on the whole path; lengths along
    the true path are sums from pose to pose. None: poses are frames.

    An estimate whose centres all coincide gets scale 0 under sim3: its ATE is then the rms distance of the
    truth from its own centroid, the error of knowing nothing. On a straight line the rotation about it is
    open, and no error depends on it. `alignment_warnings` names both. Raises UserError for fewer than 3 poses, numbers
    that are not finite, and a truth that is aligned to but has fewer than 3 different positions: any estimate fits it.
    """
    estimate, truth = _checked(estimate, "estimate"), _checked(truth, "ground truth")
    assert estimate.shape == truth.shape, (estimate.shape, truth.shape)
    if frames is not None:
        assert frames.shape == truth.shape[:1], (frames.shape, truth.shape)
        assert bool((frames.diff() > 0).all()), "frames must ascend"
    _refuse_degenerate_truth(truth, align)
    sim3 = align_trajectory(estimate, truth, align)
    aligned = sim3.apply_to_world_from_cam(estimate)
    distances = (aligned[..., 3] - truth[..., 3]).norm(dim=-1)
    path_length = (truth[1:, :, 3] - truth[:-1, :, 3]).norm(dim=-1).sum().item()
    rpe_pairs = rpe_step.pairs(truth[..., 3], frames)
    translation_errors, rotation_errors = motion_errors(aligned, truth, rpe_pairs)
    has_steps = len(rpe_pairs[0]) > 0
    segments = segment_errors(aligned, truth, frames)
    auc_pairs = choose_pairs(len(truth), MAX_AUC_PAIRS)
    # Of the estimate as it is: relative directions know no alignment, and a scale of 0 would leave none.
    pair_errors = relative_pose_errors_deg(invert_extrinsics(estimate), invert_extrinsics(truth), auc_pairs)
    return TrajectoryScore(
        ate_rmse_m=_rms(distances),
        ate_mean_m=distances.mean().item(),
        ate_median_m=distances.quantile(0.5).item(),
        ate_max_m=distances.max().item(),
        ate_percent=100 * _rms(distances) / path_length if path_length > 0 else None,
        rre_deg_per_100m=segments.rotation_deg_per_100m if segments else None,
        rte_m_per_100m=segments.translation_m_per_100m if segments else None,
        rpe_translation_m=_rms(translation_errors) if has_steps else None,
        rpe_rotation_deg=_rms(rotation_errors) if has_steps else None,
        num_rpe_pairs=len(rpe_pairs[0]),
        auc_3=pose_auc(*pair_errors, 3).item(),
        auc_5=pose_auc(*pair_errors, 5).item(),
        auc_15=pose_auc(*pair_errors, 15).item(),
        auc_30=pose_auc(*pair_errors, 30).item(),
        num_auc_pairs=len(auc_pairs[0]),
        scale=sim3.scale.item(),
        num_poses=len(truth),
        path_length_m=path_length,
    )


def alignment_warnings(estimate: Tensor, truth: Tensor, align: AlignMode) -> list[str]:
    """Return what an alignment of two paths [S, 3, 4] leaves open, by name and in words; empty when nothing."""
    if align == "none":
        return []
    found = []
    for name, poses in (("estimate", estimate), ("ground truth", truth)):
        rank = _rank(poses[..., 3].double())
        if rank == 0:
            found.append(
                f"{name} does not move: no scale or rotation can be found, errors are those of knowing nothing"
            )
        elif rank == 1 and align != "scale":
            found.append(
                f"{name} is a straight line: the rotation about it is open; no error here depends on it"
            )
    return found


def _rank(centres: Tensor) -> int:
    """How many directions centres [S, 3] spread in, beyond rounding."""
    centred = centres - centres.mean(0)
    spread = torch.linalg.svdvals(centred)
    return int((spread > RANK_TOLERANCE * max(float(spread[0]), float(centres.abs().max()) * ROUNDING)).sum())


def _refuse_degenerate_truth(truth: Tensor, align: AlignMode) -> None:
    """Raise UserError for a truth that anything can be aligned to without error."""
    num_places = len(truth[..., 3].unique(dim=0))
    if align != "none" and num_places < MIN_POSES:
        places = "never moves" if num_places == 1 else f"has {num_places} different positions"
        raise UserError(
            f"the ground truth {places}, so that aligned errors mean nothing; score other frames, or align=none"
        )


def align_trajectory(estimate: Tensor, truth: Tensor, align: AlignMode) -> Sim3:
    """The truth_from_estimate of least squares on camera centres of world_from_cam [S, 3, 4].

    "scale" takes the scale of "sim3" and leaves the axes and the origin as they are (the option of that name in evo):
    for an estimate that starts where the truth starts.
    """
    if align == "none":
        return Sim3.identity(estimate.device)
    fit = fit_kabsch if align == "se3" else fit_umeyama
    sim3 = fit(estimate[..., 3], truth[..., 3])
    if align == "scale":
        identity = Sim3.identity(estimate.device)
        return Sim3(sim3.scale, identity.rotation, identity.translation)
    return sim3


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
