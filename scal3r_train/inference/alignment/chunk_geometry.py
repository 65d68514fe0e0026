"""What the joining of chunks needs to know of each of them.

Shapes: S frames, H W pixels, P pairs of frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ChunkGeometry:
    """The geometry of one chunk in its own coordinates (OpenCV axes) and units.

    `frame_indices` S distinct numbers in the video, in any order that the tensors share; `world_points`
    [S, H, W, 3]; `confidence` [S, H, W] > 0; `valid` [S, H, W] bool; `extrinsics` [S, 3, 4] cam_from_chunk.
    Frames that no neighbour shares may be left out.
    """

    frame_indices: Sequence[int]
    world_points: Tensor
    confidence: Tensor
    valid: Tensor
    extrinsics: Tensor

    def __post_init__(self) -> None:
        num_frames, height, width, _ = self.world_points.shape
        assert len(set(self.frame_indices)) == len(self.frame_indices) == num_frames
        assert self.confidence.shape == self.valid.shape == (num_frames, height, width)
        assert self.extrinsics.shape == (num_frames, 3, 4)


def shared_frames(earlier: ChunkGeometry, later: ChunkGeometry) -> list[tuple[int, int]]:
    """Positions (in `earlier`, in `later`) of the frames that both hold, in the later chunk's order."""
    position = {frame: index for index, frame in enumerate(earlier.frame_indices)}
    return [(position[frame], i) for i, frame in enumerate(later.frame_indices) if frame in position]
