"""Thinning against a dictionary of voxels."""

from collections import defaultdict

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.metrics import voxel_means
from scal3r_train.metrics.voxel_means import HALF_RANGE, VoxelGrid, VoxelMeans, along_curve

ORIGIN = np.array([0.3, -2, 100])


def reference(points: np.ndarray, size: float) -> np.ndarray:
    voxels = defaultdict(list)
    for point in points:
        voxels[tuple(np.floor((point - ORIGIN) / size).tolist())].append(point)
    return by_coordinate(np.array([np.mean(group, axis=0) for group in voxels.values()]))


def by_coordinate(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T.round(9))]


def cloud() -> np.ndarray:
    random = np.random.default_rng(0)
    near = ORIGIN + random.normal(size=(3000, 3)) * [5, 5, 1]
    far = random.uniform(-1, 1, (50, 3)) * 1e7  # beyond the range of the codes, where each voxel is hashed
    return np.concatenate([near, far, far + 0.01, ORIGIN + [[0.0, 0, 0]]])


@pytest.mark.parametrize("size", [0.5, 2.0, 1e9])
@pytest.mark.parametrize("num_blocks", [1, 7])
@pytest.mark.parametrize("smallest_merge", [1, 1 << 22])
def test_means_agree_with_a_dictionary(
    monkeypatch: pytest.MonkeyPatch, size: float, num_blocks: int, smallest_merge: int
) -> None:
    monkeypatch.setattr(voxel_means, "SMALLEST_MERGE", smallest_merge)
    points, means = cloud(), VoxelMeans(VoxelGrid(size, ORIGIN))
    for block in np.array_split(points, num_blocks):
        means.add(block)
    got = means.means()
    expected = reference(points, size)
    assert got.shape == expected.shape
    np.testing.assert_allclose(by_coordinate(got), expected, rtol=0, atol=1e-6)
    assert means.num_points == len(points)


def test_the_order_of_points_does_not_matter() -> None:
    points = cloud()
    results = []
    for order in (np.arange(len(points)), np.random.default_rng(1).permutation(len(points))):
        means = VoxelMeans(VoxelGrid(0.7, ORIGIN))
        means.add(points[order])
        results.append(means.means())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)


def test_codes_of_near_voxels_are_their_bits_interleaved() -> None:
    grid = VoxelGrid(1.0, np.zeros(3))
    cells = np.random.default_rng(0).integers(-HALF_RANGE, HALF_RANGE, (200, 3))
    for cell, code in zip((cells + HALF_RANGE).tolist(), grid.codes(cells + 0.5).tolist(), strict=True):
        expected = sum(
            ((cell[axis] >> bit) & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3)
        )
        assert code == expected


def test_far_voxels_have_codes_of_their_own() -> None:
    grid = VoxelGrid(1.0, np.zeros(3))
    random = np.random.default_rng(0)
    cells = np.unique(random.integers(-(10**7), 10**7, (100_000, 3)), axis=0)
    neighbours = np.array([10**8, -(10**9), 3]) + np.stack(np.meshgrid(*[range(40)] * 3), -1).reshape(-1, 3)
    codes = grid.codes(np.concatenate([cells, neighbours]) + 0.5)
    assert len(np.unique(codes)) == len(cells) + len(neighbours)


def test_a_point_at_the_end_of_the_world_is_a_user_error() -> None:
    with pytest.raises(UserError, match="a point is 1e\\+30 away"):
        VoxelMeans(VoxelGrid(0.1, np.zeros(3))).add(np.array([[1.0, 2, 3], [1e30, 0, 0]]))


def test_no_points_give_no_voxels() -> None:
    assert VoxelMeans(VoxelGrid(1.0, np.zeros(3))).means().shape == (0, 3)
    assert along_curve(np.empty((0, 3))).shape == (0, 3)


def test_the_curve_visits_every_point_once_and_neighbours_soon() -> None:
    points = np.random.default_rng(0).uniform(size=(4000, 3)) + 1e5
    ordered = along_curve(points)
    assert sorted(ordered.tolist()) == sorted(points.tolist())
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean()
    assert steps < 0.2 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
    assert np.array_equal(along_curve(np.ones((3, 3))), np.ones((3, 3)))
