"""The KITTI odometry benchmark's errors: drift over segments of 100 to 800 m.

After the development kit: segments start at every 10th pose and end at the first pose farther along the true
path than the segment's length; the error is that of the motion over the segment, divided by its nominal
length; the mean is over all segments of all lengths. Shapes: S poses, G segments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.metrics.relative_pose import angle_between_rotations_deg

SEGMENT_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
STEP = 10  # poses between starts


@dataclass(frozen=True)
class SegmentErrors:
    """Mean errors over all segments, per 100 m of the segments' nominal length."""

    translation_m_per_100m: float
    rotation_deg_per_100m: float
    num_segments: int


def segment_errors(estimate: Tensor, truth: Tensor) -> SegmentErrors | None:
    """Mean segment errors of aligned world_from_cam [S, 3, 4] float64; None when no segment fits."""
    first, last, length = find_segments(truth[..., 3])
    if not len(first):
        return None
    true_motion = compose_extrinsics(invert_extrinsics(truth[first]), truth[last])
    motion = compose_extrinsics(invert_extrinsics(estimate[first]), estimate[last])
    error = compose_extrinsics(invert_extrinsics(motion), true_motion)
    angle = angle_between_rotations_deg(motion[..., :3], true_motion[..., :3])
    translation = 100 * (error[..., 3].norm(dim=-1) / length).mean()
    rotation = 100 * (angle / length).mean()
    return SegmentErrors(translation.item(), rotation.item(), len(first))


def find_segments(centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First pose [G], last pose [G] and nominal length [G] of all segments of a path of centres [S, 3]."""
    steps = (centres[1:] - centres[:-1]).norm(dim=-1)
    travelled = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    starts = torch.arange(0, len(centres), STEP, device=centres.device)
    lengths = centres.new_tensor(SEGMENT_LENGTHS_M)
    ends = torch.searchsorted(travelled, travelled[starts, None] + lengths, right=True)
    fits = ends < len(centres)
    first = starts[:, None].expand_as(ends)[fits]
    return first, ends[fits], lengths.expand(ends.shape)[fits]
