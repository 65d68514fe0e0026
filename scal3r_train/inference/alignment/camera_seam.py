"""A seam from cameras alone: what the poses of the frames that two chunks share say, and how well they agree.

`fit_cameras` is an estimate with a noise of its own, from how far the frames contradict each other. `join_by_cameras`
always gives an answer, for when nothing else does.

Shapes: P pairs of frames, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_tangent import covariance_at_origin
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames

ROUNDS = 10
WIDTH = 2.0  # medians of the residuals up to which a frame counts fully
CHI_3_MEDIAN = 1.538  # median length of a standard normal vector of three numbers
ROUNDING = 1e-6  # float32 cameras carry no more
UNKNOWN = 1e3  # standard deviation of a log scale that nothing shows


@dataclass(frozen=True, eq=False)
class CameraFit:
    """What the cameras of at least two shared frames say.

    Attributes:
        sim3: earlier_from_later.
        turn: median angle between the rotations of one frame, in radians.
        shift: median distance between the centres of one frame, in the earlier chunk's units.
        radius: rms distance of the earlier chunk's centres from their mean.
        log_scale_std: standard deviation of the log of the scale; 0 if it was given.
        covariance: [7, 7] of `sim3` @ Exp(error).
        moves: whether the cameras move or turn at all: poses that are all the same agree whatever they are.
    """

    sim3: Sim3
    turn: float
    shift: float
    radius: float
    log_scale_std: float
    covariance: Tensor
    moves: bool


def fit_cameras(earlier: ChunkGeometry, later: ChunkGeometry, scale: float | None) -> CameraFit | None:
    """Return the similarity that maps the later chunk's cameras onto the earlier one's, frame by frame; robust.

    The rotation is a mean of the frames' relative rotations, the scale the ratio of the centres' rms radii unless
    `scale` gives it. It begins at the rotation that most others are near and at the median ratio of distances, so less
    than half of the frames can be wrong; then frames that fit badly lose weight. None with fewer than two shared
    frames, or cameras that are not finite.
    """
    pairs = shared_frames(earlier, later)
    if len(pairs) < 2:
        return None
    poses = [
        chunk.extrinsics[[pair[side] for pair in pairs]].double()
        for side, chunk in enumerate((earlier, later))
    ]
    if not all(bool(each.isfinite().all()) for each in poses):
        return None
    (turns_earlier, centres_earlier), (turns_later, centres_later) = (
        invert_extrinsics(each).split([3, 1], dim=-1) for each in poses
    )
    relative = turns_earlier @ turns_later.transpose(-1, -2)
    target, source = centres_earlier[..., 0], centres_later[..., 0]
    between = roma.rotmat_geodesic_distance(relative[:, None], relative[None])
    rotation = relative[between.median(dim=1).values.argmin()]
    factor = _first_scale(source, target) if scale is None else source.new_tensor(scale)
    translation = (target - factor * source @ rotation.T).median(dim=0).values
    sim3 = Sim3(factor, rotation, translation)
    weights = torch.ones_like(source[:, 0])
    turn, shift = weights, weights
    for _ in range(ROUNDS):
        turn = roma.rotmat_geodesic_distance(relative, sim3.rotation.expand_as(relative))
        shift = (target - sim3.apply(source)).norm(dim=1)
        weights = _factors(turn) * _factors(shift)
        sim3 = _solve(relative, source, target, weights, scale, sim3)
    moves = (
        _radius(source) > ROUNDING * source.abs().max() and _radius(target) > ROUNDING * target.abs().max()
    )
    turned = max(
        float(roma.rotmat_geodesic_distance(each, each[:1].expand_as(each)).max())
        for each in (turns_earlier, turns_later)
    )
    return _with_noise(sim3, source, target, turn, shift, scale, moves=bool(moves) or turned > ROUNDING)


def _first_scale(source: Tensor, target: Tensor) -> Tensor:
    """Median ratio [] of distances between centres [P, 3]; 1 if they do not move."""
    apart_source, apart_target = torch.pdist(source), torch.pdist(target)
    ratio = (apart_target / apart_source)[(apart_source > 0) & (apart_target > 0)]
    return ratio.median() if len(ratio) else source.new_ones(())


def _factors(residuals: Tensor) -> Tensor:
    """Weights [P] in (0, 1] of frames with residuals [P]."""
    width = (WIDTH * residuals.median()).clamp(min=1e-12)
    return (width / torch.maximum(residuals, width)) ** 2


def _solve(
    relative: Tensor, source: Tensor, target: Tensor, weights: Tensor, scale: float | None, before: Sim3
) -> Sim3:
    weights = weights / weights.sum()
    # With singular values roma takes the SVD, half the time of its other way for one matrix.
    rotation, _ = roma.special_procrustes(
        (weights[:, None, None] * relative).sum(dim=0), return_singular_values=True
    )
    source_mean, target_mean = weights @ source, weights @ target
    radii = [
        weights @ (each - mean).square().sum(1)
        for each, mean in ((source, source_mean), (target, target_mean))
    ]
    factor = before.scale
    if scale is None and min(radii) > 0:
        factor = (radii[1] / radii[0]).sqrt()
    return Sim3(factor, rotation, target_mean - factor * (rotation @ source_mean))


def _with_noise(
    sim3: Sim3,
    source: Tensor,
    target: Tensor,
    turn: Tensor,
    shift: Tensor,
    scale: float | None,
    *,
    moves: bool,
) -> CameraFit:
    """The fit with the noise that its residuals show: per axis, and corrected for what the fit itself took up."""
    number = len(source)
    radius = float(_radius(target))
    turn_std = max(float(turn.median()) / CHI_3_MEDIAN, ROUNDING) * _small_sample(number, 3)
    least = ROUNDING * float(target.abs().max())
    shift_std = max(float(shift.median()) / CHI_3_MEDIAN, least) * _small_sample(number, 3 if scale else 4)
    log_scale_std = 0.0
    if scale is None:
        log_scale_std = shift_std / (radius * math.sqrt(number)) if radius > 0 else UNKNOWN
    stds = torch.tensor(
        [shift_std / float(sim3.scale) / math.sqrt(number)] * 3
        + [turn_std / math.sqrt(number)] * 3
        + [min(max(log_scale_std, ROUNDING), UNKNOWN)],
        dtype=torch.float64,
    )
    covariance = covariance_at_origin(stds.square().diag()[None], source.mean(dim=0)[None])[0]
    return CameraFit(
        sim3, float(turn.median()), float(shift.median()), radius, log_scale_std, covariance, moves
    )


def _small_sample(number: int, parameters: int) -> float:
    """Factor on a standard deviation that 3 `number` residuals show after a fit of `parameters` (Student's t)."""
    freedom = 3 * number - parameters
    return math.sqrt(3 * number / freedom * freedom / max(freedom - 2, 1))


def _radius(centres: Tensor) -> Tensor:
    """Rms distance [] of centres [P, 3] from their mean."""
    return (centres - centres.mean(0)).square().sum(-1).mean().sqrt()


def join_by_cameras(earlier: ChunkGeometry, later: ChunkGeometry, scale: float | None) -> tuple[Sim3, bool]:
    """Return (earlier_from_later, joined) from the poses of shared frames.

    The rotation is the mean over shared frames, the translation maps the mean camera centre. The scale is
    `scale` if given, else the ratio of median depths in the same frame, else that of the camera centres' radii, else 1.
    `joined` is False when that is a guess: a scale was wanted and nothing shows it, or no
    frame is shared. In the latter case the later chunk's first camera is put where the earlier chunk's last
    one is. Raises UserError when a camera that is needed is not finite.
    """
    pairs = shared_frames(earlier, later)
    joined = bool(pairs)
    if not pairs:
        last = max(range(len(earlier.frame_indices)), key=lambda i: earlier.frame_indices[i])
        first = min(range(len(later.frame_indices)), key=lambda i: later.frame_indices[i])
        pairs = [(last, first)]
    cameras_earlier = _cameras(earlier, [pair[0] for pair in pairs])
    cameras_later = _cameras(later, [pair[1] for pair in pairs])
    relative = cameras_earlier[..., :3] @ cameras_later[..., :3].transpose(-1, -2)
    rotation = roma.special_procrustes(relative.mean(dim=0))
    found = None if scale is None else rotation.new_tensor(scale)
    if found is None:
        found = _depth_ratio(earlier, later, pairs)
    if found is None:
        found = _radius_ratio(cameras_earlier[..., 3], cameras_later[..., 3])
    joined = joined and found is not None
    factor = torch.ones_like(rotation[0, 0]) if found is None else found
    centre_earlier, centre_later = cameras_earlier[..., 3].mean(0), cameras_later[..., 3].mean(0)
    return Sim3(factor, rotation, centre_earlier - factor * (rotation @ centre_later)), joined


def middle_of_shared_cameras(
    earlier: ChunkGeometry, later: ChunkGeometry
) -> tuple[float, float, float] | None:
    """Return the mean centre of the cameras of shared frames, in the earlier chunk's coordinates; None without any.

    `join_by_cameras` maps middle onto middle. Raises UserError as that does.
    """
    pairs = shared_frames(earlier, later)
    if not pairs:
        return None
    x, y, z = _cameras(earlier, [pair[0] for pair in pairs])[..., 3].mean(0).tolist()
    return x, y, z


def _cameras(chunk: ChunkGeometry, positions: list[int]) -> Tensor:
    """chunk_from_cam [P, 3, 4] float64 of the frames at `positions`."""
    extrinsics = chunk.extrinsics[positions].double()
    finite = extrinsics.isfinite().all(dim=(1, 2))
    if not finite.all():
        frame = chunk.frame_indices[positions[int(finite.int().argmin())]]
        raise UserError(
            f"the camera predicted for frame {frame} is not finite; try another checkpoint or precision"
        )
    return invert_extrinsics(extrinsics)


def _depth_ratio(earlier: ChunkGeometry, later: ChunkGeometry, pairs: list[tuple[int, int]]) -> Tensor | None:
    """Scale [] from the median depths in the same frames; None when no frame has both."""
    ratios = []
    for position_earlier, position_later in pairs:
        depth_earlier = _median_depth(earlier, position_earlier)
        depth_later = _median_depth(later, position_later)
        if depth_earlier is not None and depth_later is not None:
            ratios.append(depth_earlier / depth_later)
    return torch.stack(ratios).median() if ratios else None


def _median_depth(chunk: ChunkGeometry, position: int) -> Tensor | None:
    """Median z-depth [] of a frame's valid points in front of its camera."""
    points = chunk.world_points[position][chunk.valid[position]].double()
    rotation, translation = chunk.extrinsics[position].double().split([3, 1], dim=-1)
    depth = points @ rotation[2] + translation[2]
    depth = depth[depth.isfinite() & (depth > 0)]
    return depth.median() if len(depth) else None


def _radius_ratio(centres_earlier: Tensor, centres_later: Tensor) -> Tensor | None:
    """Scale [] from the rms radii of camera centres [P, 3]; None for cameras that do not move."""
    radius_earlier, radius_later = _radius(centres_earlier), _radius(centres_later)
    rounding = ROUNDING * torch.maximum(centres_earlier.abs().max(), centres_later.abs().max())
    return radius_earlier / radius_later if min(radius_earlier, radius_later) > rounding else None
