"""Thinning the dense predictions of a whole video to one point cloud of bounded size.

What is kept is decided by rules that do not depend on how the points were grouped: in every voxel the most
confident point wins, and of too many voxels those with the smallest hashes stay. So frames can be added one
after another, any number of processes can thin their own points, and thinning the results together gives
what one process would have got.

Shapes: N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
MIX_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points in world coordinates.

    Attributes:
        positions: [N, 3] float64.
        colours: [N, 3] uint8 RGB.
        confidence: [N] float32 of the prediction.
        source: [N] int64 number of the pixel that saw the point, (frame * H + row) * W + column.
    """

    positions: np.ndarray
    colours: np.ndarray
    confidence: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @staticmethod
    def empty() -> PointCloud:
        """Return a cloud without points."""
        return PointCloud(
            np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )

    @staticmethod
    def join(clouds: Sequence[PointCloud]) -> PointCloud:
        """Return all points of some clouds, ordered by their source."""
        clouds = [PointCloud.empty(), *clouds]
        joined = PointCloud(
            np.concatenate([cloud.positions for cloud in clouds]),
            np.concatenate([cloud.colours for cloud in clouds]),
            np.concatenate([cloud.confidence for cloud in clouds]),
            np.concatenate([cloud.source for cloud in clouds]),
        )
        return joined.select(np.argsort(joined.source, kind="stable"))

    def select(self, which: np.ndarray) -> PointCloud:
        """Return the points that an index or boolean array selects."""
        return PointCloud(
            self.positions[which], self.colours[which], self.confidence[which], self.source[which]
        )


def thin(cloud: PointCloud, voxel_size: float, max_points: int, seed: int = 0) -> PointCloud:
    """Return at most one point per voxel and at most `max_points` points.

    Args:
        cloud: the points.
        voxel_size: edge of the voxels in world units; 0 keeps every point a voxel of its own.
        max_points: bound on the result; which voxels stay is pseudo-random in `seed`, the same in every run.
        seed: changes the choice.
    """
    keys = voxel_hashes(cloud, voxel_size, seed)
    order = np.lexsort((cloud.source, -cloud.confidence, keys))
    ordered_keys = keys[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = ordered_keys[1:] != ordered_keys[:-1]
    # Winners come in ascending order of their hash, which is also their rank in the draw.
    return cloud.select(np.sort(order[is_first][:max_points]))


def voxel_hashes(cloud: PointCloud, voxel_size: float, seed: int) -> np.ndarray:
    """Return a 64-bit hash of every point's voxel; that two voxels share one is improbable."""
    hashes = np.full(len(cloud), seed, np.uint64)
    if voxel_size == 0:
        return _mix(hashes + cloud.source.astype(np.uint64))
    for axis in range(3):
        cells = np.floor(cloud.positions[:, axis] / voxel_size).astype(np.int64)
        hashes = _mix(hashes + cells.view(np.uint64))
    return hashes


def _mix(values: np.ndarray) -> np.ndarray:
    """Return the output function of the SplitMix64 generator (Steele et al. 2014), a bijection."""
    mixed = values + GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> MIX_SHIFTS[0])) * MIX_FACTORS[0]
    mixed = (mixed ^ (mixed >> MIX_SHIFTS[1])) * MIX_FACTORS[1]
    return mixed ^ (mixed >> MIX_SHIFTS[2])


class VoxelDownsampler:
    """Collects clouds and keeps few points of them, in memory bounded by `max_points` and one cloud."""

    def __init__(self, voxel_size: float, max_points: int, seed: int) -> None:
        """Thin as `point_cloud.thin` does with these arguments."""
        self._thinning = (voxel_size, max_points, seed)
        self._clouds: list[PointCloud] = []
        self._max_points = max_points

    def add(self, cloud: PointCloud) -> None:
        """Take in a cloud."""
        self._clouds.append(thin(cloud, *self._thinning))
        if sum(map(len, self._clouds)) > 2 * self._max_points:
            self._clouds = [self.result()]

    def result(self) -> PointCloud:
        """Return what is kept of all clouds together, ordered by source."""
        return thin(PointCloud.join(self._clouds), *self._thinning)
