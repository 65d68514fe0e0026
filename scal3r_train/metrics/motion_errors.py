"""The relative pose error (RPE): how wrong the motion between two poses is, over steps of frames or of metres.

After Sturm et al. 2012: E = (true motion)^-1 (estimated motion), of which the length of the translation and the
angle of the rotation are taken. Shapes: S poses, Q pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.metrics.relative_pose import angle_between_rotations_deg


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
