"""The KITTI odometry benchmark's errors: drift over segments of 100 to 800 m.

After the development kit: segments start at every 10th pose and end at the first pose farther along the true
path than the segment's length; the error is that of the motion over the segment, divided by its nominal
length; the mean is over all segments of all lengths. Where some frames alone have a pose, the tens are counted in
frames, so that segments start where those of the whole path do. Rotations are used as they come, inverted as
general matrices and measured by their trace: files round to 7 digits, which shows in the fifth digit of published
numbers (KITTI 00 by ORB-SLAM2: 0.25333 deg/100 m, but 0.25332 with rotations made orthonormal first).

Shapes: S poses, G segments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SEGMENT_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
STEP = 10  # frames between starts


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
