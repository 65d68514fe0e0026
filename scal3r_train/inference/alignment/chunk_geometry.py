"""What alignment uses of a chunk's prediction: points with their confidence, valid pixels, cameras, frame numbers.

Shapes: S frames, H W pixels, P pairs of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scal3r_train.inference.prediction import ChunkPrediction, PointSource


@dataclass(frozen=True, eq=False)
class ChunkGeometry:
    """The geometry of one chunk in its own coordinates (OpenCV axes) and units.

    Frames that no neighbour shares may be left out.

    Attributes:
        frame_indices: S numbers in the video, in any order that the tensors share; distinct, but for a loop chunk
            whose two windows share frames.
        world_points: [S, H, W, 3].
        confidence: [S, H, W] > 0.
        valid: [S, H, W] bool.
        extrinsics: [S, 3, 4] cam_from_chunk.
    """

    frame_indices: Sequence[int]
    world_points: Tensor
    confidence: Tensor
    valid: Tensor
    extrinsics: Tensor

    def __post_init__(self) -> None:
        num_frames, height, width, _ = self.world_points.shape
        assert len(self.frame_indices) == num_frames
        assert self.confidence.shape == self.valid.shape == (num_frames, height, width)
        assert self.extrinsics.shape == (num_frames, 3, 4)

    @staticmethod
    def of(prediction: ChunkPrediction, frames: Sequence[int], source: PointSource) -> ChunkGeometry:
        """Return the geometry of a prediction of `frames`; every usable pixel (positive depth, not masked) is valid."""
        points, confidence = prediction.points(source)
        return ChunkGeometry(frames, points, confidence, prediction.usable, prediction.extrinsics)


def shared_frames(earlier: ChunkGeometry, later: ChunkGeometry) -> list[tuple[int, int]]:
    """Return positions (in `earlier`, in `later`) of the P frames that both hold, in the later chunk's order.

    The frames of `earlier` are distinct; one that `later` holds twice is paired twice.
    """
    assert len(set(earlier.frame_indices)) == len(earlier.frame_indices)
    position = {frame: index for index, frame in enumerate(earlier.frame_indices)}
    return [(position[frame], i) for i, frame in enumerate(later.frame_indices) if frame in position]
