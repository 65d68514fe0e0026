"""Voxel downsampling for scores: one point per occupied voxel, the mean of the points in it.

Points come in blocks and only occupied voxels are kept, so memory is bounded by their number. Which voxel a point is
in does not depend on the other points, and two clouds that are thinned with one grid can be compared. The result is
ordered along a Morton curve: points near each other in memory are near each other in space, which makes searches in it
several times faster. Shapes: N points, V voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.config import UserError

BITS = 21  # of a voxel's place per axis in a Morton code
HALF_RANGE = 1 << (BITS - 1)
FAR = np.uint64(1 << 63)
SPREAD = (
    (np.uint64(32), np.uint64(0x001F00000000FFFF)),
    (np.uint64(16), np.uint64(0x001F0000FF0000FF)),
    (np.uint64(8), np.uint64(0x100F00F00F00F00F)),
    (np.uint64(4), np.uint64(0x10C30C30C30C30C3)),
    (np.uint64(2), np.uint64(0x1249249249249249)),
)
HASH_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
SMALLEST_MERGE = 1 << 22  # points that wait until they are sorted into the voxels
MAX_CELL = 2.0**62


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Cubes of edge `size` > 0, one of whose corners is `origin` [3] float64."""

    size: float
    origin: np.ndarray

    def codes(self, points: np.ndarray) -> np.ndarray:
        """Return the voxel of points [N, 3] as uint64 [N].

        Within 2^20 voxels of the origin this is a Morton code. Farther out, where single points of a bad reconstruction
        are, it is a hash with the highest bit set: two voxels share one with a chance of V^2 / 2^64.
        """
        cells = np.floor((points - self.origin) / self.size)
        if not (np.abs(cells) < MAX_CELL).all():
            far = float(np.abs(points - self.origin).max())
            raise UserError(f"a point is {far:.3g} away from the others; remove it or take larger voxels")
        cells = cells.astype(np.int64)
        codes = np.zeros(len(points), np.uint64)
        for axis in range(3):
            codes |= _spread((cells[:, axis] + HALF_RANGE).astype(np.uint64)) << np.uint64(axis)
        is_far = ((cells < -HALF_RANGE) | (cells >= HALF_RANGE)).any(axis=1)
        if is_far.any():
            codes[is_far] = _hash(cells[is_far]) | FAR
        return codes


class VoxelMeans:
    """Sums of points per voxel, to which blocks of points are added."""

    def __init__(self, grid: VoxelGrid) -> None:
        self.num_points = 0
        self._grid = grid
        self._voxels = NO_VOXELS
        self._waiting: list[_Sums] = []
        self._num_waiting = 0

    def add(self, points: np.ndarray) -> None:
        """Add points [N, 3], all finite. Raises UserError for coordinates too large for the grid."""
        sums = _Sums.of_points(self._grid.codes(points), points - self._grid.origin)
        self.num_points += len(points)
        self._waiting.append(sums)
        self._num_waiting += len(sums.codes)
        if self._num_waiting >= max(SMALLEST_MERGE, len(self._voxels.codes) // 2):
            self._merge()

    def means(self) -> np.ndarray:
        """Return the mean of the points of each voxel, [V, 3] float64 along the Morton curve."""
        self._merge()
        points = np.stack(self._voxels.columns, axis=-1)
        points /= self._voxels.counts[:, None]
        points += self._grid.origin
        return points

    def _merge(self) -> None:
        parts = [self._voxels, *self._waiting]
        self._voxels, self._waiting, self._num_waiting = NO_VOXELS, [], 0  # so that `parts` holds them alone
        self._voxels = _Sums.join(parts)


def along_curve(points: np.ndarray) -> np.ndarray:
    """Return all points [N, 3] ordered along a Morton curve through their bounding box."""
    if not len(points):
        return points
    lowest = points.min(axis=0)
    extent = float((points.max(axis=0) - lowest).max())
    if extent == 0:
        return points
    return points[np.argsort(VoxelGrid(extent / (HALF_RANGE - 1), lowest).codes(points), kind="stable")]


@dataclass(frozen=True, eq=False)
class _Sums:
    """Voxels [V] in ascending order: their codes, sums of coordinates (3 x [V]) and numbers of points."""

    codes: np.ndarray
    columns: tuple[np.ndarray, ...]
    counts: np.ndarray

    @staticmethod
    def of_points(codes: np.ndarray, points: np.ndarray) -> _Sums:
        return _Sums._reduced(codes, [points[:, axis] for axis in range(3)], np.ones(len(codes), np.uint32))

    @staticmethod
    def join(parts: list[_Sums]) -> _Sums:
        """Sum voxels that several parts hold; `parts` is emptied on the way, to need less memory."""
        codes = np.concatenate([part.codes for part in parts])
        columns = [np.concatenate([part.columns[axis] for part in parts]) for axis in range(3)]
        counts = np.concatenate([part.counts for part in parts])
        parts.clear()
        return _Sums._reduced(codes, columns, counts)

    @staticmethod
    def _reduced(codes: np.ndarray, columns: list[np.ndarray], counts: np.ndarray) -> _Sums:
        if not len(codes):
            return _Sums(codes, tuple(columns), counts)
        order = np.argsort(codes)
        codes = codes[order]
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        codes = codes[starts]
        sums = []
        while columns:
            sums.append(np.add.reduceat(columns.pop(0)[order], starts))
        return _Sums(codes, tuple(sums), np.add.reduceat(counts[order], starts, dtype=np.uint32))


NO_VOXELS = _Sums.of_points(np.empty(0, np.uint64), np.empty((0, 3)))


def _spread(values: np.ndarray) -> np.ndarray:
    """Put two zero bits behind each of the lowest 21 bits."""
    values = values & np.uint64((1 << BITS) - 1)
    for shift, mask in SPREAD:
        values = (values | (values << shift)) & mask
    return values


def _hash(cells: np.ndarray) -> np.ndarray:
    """Mix integers [N, 3] into uint64 [N]."""
    mixed = np.zeros(len(cells), np.uint64)
    for axis, factor in enumerate(HASH_FACTORS):
        mixed = (mixed ^ cells[:, axis].astype(np.uint64)) * factor
        mixed ^= mixed >> np.uint64(29)
    return mixed
