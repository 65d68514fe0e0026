"""Large point clouds in pieces that can be skipped as a whole.

Shapes: P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import atomic_output
from scal3r_train.data.io.point_file import PointFile

CELL_M = 8.0
PIECE_POINTS = 1 << 17


def read_points(path: Path) -> np.ndarray:
    """Positions [P, 3] float32 of a .ply (ascii, binary) or .pcd (ascii, binary) file; not finite ones are left out.

    Raises UserError naming the file when it is missing, damaged or of another kind.
    """
    blocks = [block.astype(np.float32) for block in PointFile(path).blocks()]
    return np.concatenate([np.empty((0, 3), np.float32), *blocks])


@dataclass(frozen=True)
class PiecewiseCloud:
    """Points in pieces that lie together, so that those far from a camera are not looked at.

    Attributes:
        points: [P, 3] float32, memory-mapped when read from a file.
        start: [C + 1] where each piece begins in points.
        centre: [C, 3]; radius: [C] of a ball around each piece.
    """

    points: np.ndarray
    start: np.ndarray
    centre: np.ndarray
    radius: np.ndarray

    def near(self, position: np.ndarray, forward: np.ndarray, max_distance: float) -> list[np.ndarray]:
        """Pieces with points at most max_distance away and possibly in front of a camera; unit vector forward [3]."""
        offset = self.centre - position
        in_reach = np.linalg.norm(offset, axis=1) - self.radius <= max_distance
        in_front = offset @ forward + self.radius > 0
        pieces = np.flatnonzero(in_reach & in_front)
        return [self.points[self.start[piece] : self.start[piece + 1]] for piece in pieces]


def write_piecewise(path: Path, points: np.ndarray) -> None:
    """Write points [P, 3] sorted into cubes as .npy, for `read_piecewise`."""
    cell = np.floor((points - points.min(0)) / CELL_M).astype(np.int64)
    size = cell.max(0) + 1
    order = np.argsort((cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2], kind="stable")
    with atomic_output(path) as temporary:
        np.save(temporary, points[order])


def read_piecewise(path: Path) -> PiecewiseCloud:
    """Open what `write_piecewise` wrote, without reading the points into memory at once."""
    points = np.load(path, mmap_mode="r", allow_pickle=False)
    start = np.unique([*range(0, len(points), PIECE_POINTS), len(points)])
    pieces = [points[a:b] for a, b in zip(start[:-1], start[1:], strict=True)]
    centre = np.array([(piece.min(0) + piece.max(0)) / 2 for piece in pieces])
    radius = np.array(
        [np.linalg.norm(piece - middle, axis=1).max() for piece, middle in zip(pieces, centre, strict=True)]
    )
    return PiecewiseCloud(points, start, centre, radius)
