"""Overlap frames fused: two chunks' predictions of one frame, both placed in the world, become one.

The weight of the later chunk grows along the overlap from 0 before its first frame to 1 after its last, so that the
trajectory and the depth pass from one chunk to the other without a jump; within that, confidence decides. Where two
depths disagree, their mean lies in mid-air: the one of greater weight is taken. docs/alignment.md
has the whole.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.geometry.sim3_tangent import exp, rotation_log
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.settings import FusionSettings


def overlap_shares(num_overlap: int) -> Tensor:
    """Shares [num_overlap] float64 of the later chunk, evenly spaced strictly between 0 and 1."""
    return torch.arange(1, num_overlap + 1, dtype=torch.float64) / (num_overlap + 1)


def fuse_frames(
    earlier: PlacedFrames, later: PlacedFrames, shares: Tensor, settings: FusionSettings
) -> PlacedFrames:
    """Return one prediction of S frames that two chunks predicted.

    Args:
        earlier, later: the same frames by either chunk, placed in the world.
        shares: [S] in [0, 1] of the later chunk; at 0 and 1 the result is that chunk's (where its depth is valid).
        settings: of the fusion.

    Returns:
        Cameras on the shortest arc between the two, intrinsics between them (float64); depth, confidence and the point
        head's points in the earlier ones' type, mixed with the same weights. A pixel valid in one chunk only is taken
        from there; one valid in neither has depth 0.
    """
    assert earlier.frames == later.frames, (earlier.frames, later.frames)
    camera_weight = _weight(_mean_confidence(earlier), _mean_confidence(later), shares.double())
    pixel_weight = _pixel_weight(earlier, later, shares.double()[:, None, None], settings)
    either = (earlier.depth > 0) | (later.depth > 0)

    def mixed(one: Tensor, two: Tensor, weight: Tensor) -> Tensor:
        # So equals stay what they are to the last bit.
        return (one.double() + weight * (two.double() - one.double())).to(one.dtype)

    points = conf = None
    if earlier.head_points is not None and later.head_points is not None:
        assert earlier.head_conf is not None
        assert later.head_conf is not None
        points = mixed(earlier.head_points, later.head_points, pixel_weight[..., None])
        conf = mixed(earlier.head_conf, later.head_conf, pixel_weight)
    return PlacedFrames(
        earlier.frames,
        _between(earlier.world_from_cam.double(), later.world_from_cam.double(), camera_weight),
        mixed(earlier.intrinsics.double(), later.intrinsics, camera_weight[:, None, None]),
        torch.where(either, mixed(earlier.depth, later.depth, pixel_weight), 0),
        mixed(earlier.depth_conf, later.depth_conf, pixel_weight),
        earlier.valid,  # of the frame, not of the chunk
        points,
        conf,
    )


def _weight(earlier_confidence: Tensor, later_confidence: Tensor, share: Tensor) -> Tensor:
    """The later one's weight in [0, 1]."""
    earlier_part, later_part = (1 - share) * earlier_confidence, share * later_confidence
    return later_part / (earlier_part + later_part)


def _mean_confidence(frames: PlacedFrames) -> Tensor:
    """[S] float64, over valid pixels; the smallest positive number where there is none."""
    valid = frames.depth > 0
    total = torch.where(valid, frames.depth_conf, 0).double().sum(dim=(1, 2))
    mean = total / valid.sum(dim=(1, 2)).clamp(min=1)
    return mean.clamp(min=torch.finfo(torch.float32).tiny)


def _between(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """world_from_cam [S, 3, 4] on the way from a to b: centres on the line, rotations on the shortest arc."""
    turn = rotation_log(a[..., :3].transpose(-1, -2) @ b[..., :3]) * weight[:, None]
    zeros = torch.zeros(len(a), 3, dtype=a.dtype)
    part: Sim3Batch = exp(torch.cat([zeros, turn, zeros[:, :1]], dim=1))
    centre = (1 - weight[:, None]) * a[..., 3] + weight[:, None] * b[..., 3]
    return torch.cat([a[..., :3] @ part.rotation, centre[..., None]], dim=-1)


def _pixel_weight(
    earlier: PlacedFrames, later: PlacedFrames, share: Tensor, settings: FusionSettings
) -> Tensor:
    """The later one's weight in every pixel [S, H, W] float64: 0 or 1 where the depths cannot be mixed."""
    weight = _weight(earlier.depth_conf.double(), later.depth_conf.double(), share)
    a, b = earlier.depth.double(), later.depth.double()
    a_valid, b_valid = a > 0, b > 0
    agree = (a - b).abs() <= settings.max_relative_difference * torch.minimum(a, b)
    weight = torch.where(agree, weight, (weight > 0.5).double())
    return torch.where(a_valid & b_valid, weight, b_valid.double())
