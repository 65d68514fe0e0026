"""Which points of a large cloud to show: an order whose every prefix covers the scene evenly, and what a look misses.

Points are sorted into levels. Level 0 holds all; of every level one point a voxel goes on to the next, whose voxels are
twice as large. A point is stored once, under the highest level that it reached, highest levels first, in random order
within a level. So a prefix is the cloud at some voxel size, and adding points adds detail, never moves any. (The
idea of progressive layers: Schuetz et al. 2016, Potree.)

Shapes: N points, n chosen ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_PER_LEVEL = 2000
MAX_LEVELS = 24
HASH_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
BEHIND = 0.05  # how much a point behind the observer counts
MIN_DISTANCE = 4.0  # in voxels of level 1, below which nothing counts more for being closer


@dataclass(frozen=True, eq=False)
class PointLevels:
    """A cloud in the order of its levels.

    Attributes:
        positions: [N, 3] float32.
        colours: [N, 3] uint8.
        confidence: [N] float32.
        frame: [N] int32 frames that saw the points, -1 where unknown.
        level: [N] uint8, falling: the highest level that the point belongs to.
        voxel_sizes: of all levels, 0 for level 0.
    """

    positions: np.ndarray
    colours: np.ndarray
    confidence: np.ndarray
    frame: np.ndarray
    level: np.ndarray
    voxel_sizes: tuple[float, ...]

    @staticmethod
    def build(
        positions: np.ndarray,
        colours: np.ndarray,
        confidence: np.ndarray,
        frame: np.ndarray,
        voxel_size: float,
    ) -> PointLevels:
        """Sort points of finite position, given as the attributes are.

        Args:
            positions, colours, confidence, frame: of the points.
            voxel_size: about how far points are apart; 0: guessed from the size and number.
        """
        finite = np.flatnonzero(np.isfinite(positions).all(-1))
        start = np.random.default_rng(0).permutation(finite)
        finest = 2 * (voxel_size or _guessed_spacing(positions[start]))
        level = np.zeros(len(start), np.uint8)
        sizes, current = [0.0], np.arange(len(start))
        shuffled = positions[start]
        while len(current) > MIN_PER_LEVEL and len(sizes) < MAX_LEVELS:
            size = finest * 2.0 ** (len(sizes) - 1)
            current = current[_one_per_voxel(shuffled[current], size)]
            level[current] = len(sizes)
            sizes.append(size)
        order = np.argsort(-level.astype(np.int16), kind="stable")
        whole = start[order]
        return PointLevels(
            shuffled[order], colours[whole], confidence[whole], frame[whole], level[order], tuple(sizes)
        )

    def __len__(self) -> int:
        return len(self.level)

    def spacing_of(self, index: np.ndarray) -> float:
        """Return about how far points [n] are apart, if most that belong between them are there too."""
        return self._spacings()[int(np.median(self.level[index]))] if len(index) else 1.0

    def passing(
        self, min_confidence: float = -np.inf, level: int = 0, frames: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Return [n] int64 points in order that are confident enough, reach a level and are of frames [start, stop).

        Points of unknown frame pass whatever the frames.
        """
        stop = int(np.searchsorted(-self.level.astype(np.int16), -level, side="right"))
        keep = self.confidence[:stop] >= min_confidence
        if frames is not None:
            seen = self.frame[:stop]
            keep &= ((seen >= frames[0]) & (seen < frames[1])) | (seen < 0)
        return np.flatnonzero(keep)

    def near(self, among: np.ndarray, count: int, place: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Return at most `count` of points `among` [n] that an observer misses most.

        What counts is how large the hole looks that a point leaves: its level's voxel over its distance.

        Args:
            among: points that are not shown yet.
            count: how many to add.
            place, ahead: [3] where the observer is and the direction in which the observer looks.
        """
        if len(among) <= count:
            return among
        offset = self.positions[among] - place.astype(np.float32)
        distance = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        sizes = np.array(self._spacings(), np.float32)[self.level[among]]
        floor = np.float32(MIN_DISTANCE * self._spacings()[0])
        missed = sizes / np.maximum(distance, floor)
        missed[offset @ ahead.astype(np.float32) < 0] *= BEHIND
        return np.sort(among[np.argpartition(-missed, count - 1)[:count]])

    def _spacings(self) -> list[float]:
        """How far the points of each level are apart; those of level 0 half as far as those of level 1."""
        first = self.voxel_sizes[1] / 2 if len(self.voxel_sizes) > 1 else 1.0
        return [first, *self.voxel_sizes[1:]]


def _one_per_voxel(positions: np.ndarray, size: float) -> np.ndarray:
    """Return indices, ascending, of the first point of every voxel.

    Voxels share a table with at least twice as many places as points. Two that fall on one place count as one, which
    thins a little more than asked, evenly.
    """
    bits = max(8, int(2 * len(positions) - 1).bit_length())
    low = positions.min(0)
    places = np.zeros(len(positions), np.uint64)
    for axis, factor in enumerate(HASH_FACTORS):
        cells = ((positions[:, axis] - low[axis]) / np.float32(size)).astype(np.int64)
        places ^= (cells.view(np.uint64) + np.uint64(1)) * factor
    places = (places * HASH_FACTORS[0]) >> np.uint64(64 - bits)
    first = np.full(1 << bits, -1, np.int32)
    # Of repeated places the value written last stays, so the first point comes last.
    first[places[::-1]] = np.arange(len(positions) - 1, -1, -1, dtype=np.int32)
    return np.sort(first[first >= 0])


def _guessed_spacing(positions: np.ndarray) -> float:
    """Return how far points [N, 3] would be apart on a square as large as the cloud."""
    if len(positions) < 2:
        return 1.0
    extent = float(np.ptp(np.quantile(positions[:100_000], [0.02, 0.98], axis=0), axis=0).max())
    return max(extent, 1e-6) / len(positions) ** 0.5
