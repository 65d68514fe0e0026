"""Relative pose errors between all pairs of frames, and the area under their accuracy curve.

Shapes: ... any leading axes, S frames, Q = S (S - 1) / 2 pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics

MIN_BASELINE = 1e-6


def angle_between_rotations_deg(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle in degrees of first^T second, [..., 3, 3] each; accurate near 0 and 180 (atan2, not acos)."""
    relative = first.mT @ second
    skew = relative - relative.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1) / 2
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def angle_between_vectors_deg(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle in degrees between vectors, [..., 3] each."""
    cross = torch.linalg.cross(first, second).norm(dim=-1)
    return torch.rad2deg(torch.atan2(cross, (first * second).sum(-1)))


def relative_pose_errors_deg(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation and translation-direction errors in degrees of all pairs of frames, [..., Q] each.

    Args:
        estimate, truth: cam_from_world [..., S, 3, 4], each in its own world frame and scale.

    The direction error of a pair whose true baseline is below 1e-6 is NaN: it has no direction.
    """
    num_frames = truth.shape[-3]
    first, second = torch.triu_indices(num_frames, num_frames, offset=1, device=truth.device)

    def relative(extrinsics: Tensor) -> Tensor:
        return compose_extrinsics(
            extrinsics[..., second, :, :], invert_extrinsics(extrinsics[..., first, :, :])
        )

    ours, true = relative(estimate), relative(truth)
    rotation = angle_between_rotations_deg(ours[..., :3], true[..., :3])
    direction = angle_between_vectors_deg(ours[..., 3], true[..., 3])
    has_baseline = true[..., 3].norm(dim=-1) > MIN_BASELINE
    return rotation, torch.where(has_baseline, direction, torch.full_like(direction, float("nan")))


def pose_auc(rotation_deg: Tensor, direction_deg: Tensor, threshold_deg: int) -> Tensor:
    """Return the area under the share of pairs whose worse error is below 1, 2, .., threshold degrees, in 0..1.

    Pairs without a direction count by rotation alone (VGGT's protocol uses 1-degree bins, USERS.md 4).
    """
    worse = torch.where(direction_deg.isnan(), rotation_deg, torch.maximum(rotation_deg, direction_deg))
    limits = torch.arange(1, threshold_deg + 1, device=worse.device, dtype=worse.dtype)
    return (worse.flatten()[:, None] < limits).to(worse.dtype).mean()
