"""A seam from cameras alone, for when too few pixels are valid in both chunks.

Shapes: P pairs of frames, H W pixels.
"""

from __future__ import annotations

import roma
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames


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
    radius_earlier = (centres_earlier - centres_earlier.mean(0)).square().sum(-1).mean().sqrt()
    radius_later = (centres_later - centres_later.mean(0)).square().sum(-1).mean().sqrt()
    rounding = 1e-6 * torch.maximum(centres_earlier.abs().max(), centres_later.abs().max())
    return radius_earlier / radius_later if min(radius_earlier, radius_later) > rounding else None
