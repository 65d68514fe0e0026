"""Whether the two windows of a loop chunk see the same surfaces.

The network puts any two windows somewhere, also when they show different places. Then hardly any point of one window,
projected into the frames of the other, meets a surface at its own depth.

Shapes: H W pixels, N points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.inference.prediction import ChunkPrediction

DEPTH_TOLERANCE = 0.1
MAX_POINTS = 4096
NEAREST_SHARE = 0.05  # of the median depth: what lies nearer to a camera projects badly


def common_view_share(prediction: ChunkPrediction, num_first: int) -> float:
    """Return the share of points of one window that the other sees at the same depth, the larger of both ways.

    Args:
        prediction: of a loop chunk, in temporal order: `num_first` frames of the first window, then the second.
        num_first: of those frames, which belong to the first window.
    """
    first, second = prediction.frames(slice(0, num_first)), prediction.frames(slice(num_first, None))
    return max(_seen_share(first, second), _seen_share(second, first))


def _seen_share(seen: ChunkPrediction, by: ChunkPrediction) -> float:
    """Return the share of `seen`'s points that some frame of `by` sees at their depth."""
    points = seen.points("depth")[0].reshape(-1, 3)[seen.usable.flatten()]
    if not len(points) or not by.usable.any():
        return 0.0
    points = points[:: -(-len(points) // MAX_POINTS)]
    found = torch.zeros(len(points), dtype=torch.bool)
    nearest = NEAREST_SHARE * float(by.depth[by.usable].median())
    for frame in range(by.num_frames):
        found |= _agrees(points, by, frame, nearest)
    return float(found.double().mean())


def _agrees(points: Tensor, by: ChunkPrediction, frame: int, nearest: float) -> Tensor:
    """Return which of N points a frame sees at their depth."""
    in_camera = points @ by.extrinsics[frame, :, :3].T + by.extrinsics[frame, :, 3]
    depth = in_camera[:, 2]
    pixels = in_camera @ by.intrinsics[frame].T
    height, width = by.depth.shape[1:]
    column, row = (pixels[:, :2] / depth.clamp(min=1e-12)[:, None]).floor().long().unbind(-1)
    inside = (depth > nearest) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    surface = by.depth[frame, row, column].double()
    near = (surface - depth).abs() <= DEPTH_TOLERANCE * depth
    return inside & by.usable[frame, row, column] & near
