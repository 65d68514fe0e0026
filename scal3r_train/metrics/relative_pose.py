"""Errors of the motion between two poses: AUC over pairs of frames, and RPE over steps of frames or metres.

AUC: angles of relative rotation and translation direction of all pairs, and the area under their accuracy curve.
RPE, after Sturm et al. 2012: E = (true motion)^-1 (estimated motion), of which the length of the translation and the
angle of the rotation are taken.
Shapes: ... any leading axes, S poses or frames, Q pairs; of S frames there are S (S - 1) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics

MIN_BASELINE = 1e-6
NO_DIRECTION_DEG = 90.0


def angle_between_rotations_deg(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle in degrees of first^T second, [..., 3, 3] each; accurate near 0 and 180 (atan2, not acos)."""
    relative = first.mT @ second
    skew = relative - relative.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1) / 2
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def angle_between_vectors_deg(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle in degrees between vectors, [..., 3] each; 90 where either is exactly 0."""
    cross = torch.linalg.cross(first, second).norm(dim=-1)
    dot = (first * second).sum(-1)
    is_zero = (first == 0).all(-1) | (second == 0).all(-1)
    return torch.where(is_zero, NO_DIRECTION_DEG, torch.rad2deg(torch.atan2(cross, dot)))


def relative_pose_errors_deg(
    estimate: Tensor, truth: Tensor, pairs: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return rotation and translation-direction errors in degrees of pairs of frames, [..., Q] each.

    Args:
        estimate, truth: cam_from_world [..., S, 3, 4], each in its own world frame and scale.
        pairs: frames [Q], [Q]; None for all pairs i < j, i ascending, then j.

    The direction error of a pair whose true baseline is below 1e-6 is NaN: it has no direction. An estimate that does
    not move between frames that do is 90 degrees off.
    """
    if pairs is None:
        num_frames = truth.shape[-3]
        first, second = torch.triu_indices(num_frames, num_frames, offset=1, device=truth.device)
    else:
        first, second = pairs

    def relative(extrinsics: Tensor) -> Tensor:
        return compose_extrinsics(
            extrinsics[..., second, :, :], invert_extrinsics(extrinsics[..., first, :, :])
        )

    ours, true = relative(estimate), relative(truth)
    rotation = angle_between_rotations_deg(ours[..., :3], true[..., :3])
    direction = angle_between_vectors_deg(ours[..., 3], true[..., 3])
    has_baseline = true[..., 3].norm(dim=-1) > MIN_BASELINE
    return rotation, torch.where(has_baseline, direction, torch.full_like(direction, float("nan")))


def choose_pairs(num_frames: int, max_pairs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pairs of frames i < j, int64 [Q] each: all of them, or `max_pairs` drawn without repetition.

    All pairs, ordered by i and then j, are cut into `max_pairs` stretches of equal length (but for one pair), and one
    pair is drawn from each (PCG64 from `seed`). So the draw covers all distances evenly and is the same everywhere.
    """
    num_pairs = num_frames * (num_frames - 1) // 2
    if num_pairs <= max_pairs:
        first, second = torch.triu_indices(num_frames, num_frames, offset=1)
        return first, second
    edges = np.arange(max_pairs + 1, dtype=np.int64) * num_pairs // max_pairs
    offsets = np.random.default_rng(seed).random(max_pairs) * np.diff(edges)
    rank = edges[:-1] + offsets.astype(np.int64)
    frames = np.arange(num_frames, dtype=np.int64)
    starts = frames * num_frames - frames * (frames + 1) // 2  # rank of the pair (i, i + 1)
    first_frame = np.searchsorted(starts[:-1], rank, side="right") - 1
    second_frame = rank - starts[first_frame] + first_frame + 1
    return torch.from_numpy(first_frame), torch.from_numpy(second_frame)


def pose_auc(rotation_deg: Tensor, direction_deg: Tensor, threshold_deg: int) -> Tensor:
    """Return the area under the share of pairs whose worse error is below 1, 2, .., threshold degrees, in 0..1.

    Pairs without a direction count by rotation alone (docs/metrics.md#trajectories; VGGT's protocol has bins
    of 1 degree).
    """
    worse = torch.where(direction_deg.isnan(), rotation_deg, torch.maximum(rotation_deg, direction_deg))
    limits = torch.arange(1, threshold_deg + 1, device=worse.device, dtype=worse.dtype)
    return torch.stack([(worse < limit).to(worse.dtype).mean() for limit in limits]).mean()


@dataclass(frozen=True)
class RpeStep:
    """Between which poses motion is compared.

    Attributes:
        delta: length of a step, above 0.
        unit: "frames": all pairs of frames (i, i + delta) that both have a pose. "m": stretches that follow each other
            on the true path, each ending at the first pose at least delta metres (of the truth's unit) along the path
            behind the stretch's first.
    """

    delta: float = 1.0
    unit: Literal["frames", "m"] = "frames"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise UserError(f"the step of the relative pose error is {self.delta:g}; give a number above 0")
        if self.unit == "frames" and self.delta != int(self.delta):
            raise UserError(
                f"the step of the relative pose error is {self.delta:g} frames; give whole frames"
            )

    def pairs(self, centres: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return first and last pose, int64 [Q] each, of all steps along true camera centres [S, 3].

        `frames` [S] int64 ascending: the frame number of each pose; None: poses are frames, 0, 1, ...
        """
        if self.unit == "frames":
            if frames is None:
                frames = torch.arange(len(centres))
            wanted = frames + int(self.delta)
            last = torch.searchsorted(frames, wanted).clamp(max=len(frames) - 1)
            first = (frames[last] == wanted).nonzero()[:, 0]
            return first, last[first]
        ends, travelled = [0], 0.0
        for pose, step in enumerate((centres[1:] - centres[:-1]).norm(dim=-1).tolist(), start=1):
            travelled += step
            if travelled >= self.delta:
                ends.append(pose)
                travelled = 0.0
        return torch.tensor(ends[:-1], dtype=torch.int64), torch.tensor(ends[1:], dtype=torch.int64)


def motion_errors(estimate: Tensor, truth: Tensor, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Errors [Q] of the motion between pairs of aligned world_from_cam [S, 3, 4]: distance, and angle in degrees."""
    first, last = pairs
    true_motion = compose_extrinsics(invert_extrinsics(truth[first]), truth[last])
    motion = compose_extrinsics(invert_extrinsics(estimate[first]), estimate[last])
    distance = (motion[..., 3] - true_motion[..., 3]).norm(dim=-1)
    return distance, angle_between_rotations_deg(motion[..., :3], true_motion[..., :3])
