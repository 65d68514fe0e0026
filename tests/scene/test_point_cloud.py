"""Thinning: what is kept, and that it does not depend on how the points were grouped."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.scene.point_cloud import PointCloud, VoxelDownsampler, thin


def random_cloud(num_points: int, seed: int = 0) -> PointCloud:
    random = np.random.default_rng(seed)
    return PointCloud(
        positions=random.normal(size=(num_points, 3)) * 3,
        colours=random.integers(0, 256, (num_points, 3), np.uint8),
        confidence=random.integers(1, 5, num_points).astype(np.float32),  # with ties
        source=np.arange(num_points) + 1000 * seed,
    )


def test_a_voxel_keeps_its_most_confident_point() -> None:
    cloud, voxel_size = random_cloud(500), 0.8
    best: dict[tuple[int, ...], int] = {}
    for i, position in enumerate(cloud.positions):
        voxel = tuple(int(np.floor(value / voxel_size)) for value in position)
        if voxel not in best or cloud.confidence[i] > cloud.confidence[best[voxel]]:
            best[voxel] = i
    kept = thin(cloud, voxel_size, 10**6)
    assert 1 < len(best) < 500
    assert kept.source.tolist() == sorted(best.values())
    np.testing.assert_array_equal(kept.positions, cloud.positions[kept.source])
    np.testing.assert_array_equal(kept.colours, cloud.colours[kept.source])


def test_a_cap_draws_uniformly_and_repeatably() -> None:
    cloud = random_cloud(20_000)
    kept = thin(cloud, 0, 2_000)
    assert len(kept) == 2_000
    # A fair draw of 2000 from 20000 puts 200 +- 13 into each tenth of the points.
    counts = np.bincount(kept.source // 2_000, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260
    assert np.array_equal(kept.source, thin(cloud, 0, 2_000).source)
    assert not np.array_equal(kept.source, thin(cloud, 0, 2_000, seed=1).source)


def test_without_voxels_and_below_the_cap_everything_stays() -> None:
    assert thin(random_cloud(50), 0, 50).source.tolist() == list(range(50))
    assert len(thin(PointCloud.empty(), 0.1, 50)) == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([1, 7, 50, 10_000]),
)
def test_shares_thinned_apart_give_what_all_points_give(
    sizes: list[int], voxel_size: float, max_points: int
) -> None:
    shares = [random_cloud(size, seed) for seed, size in enumerate(sizes)]
    together = thin(PointCloud.join(shares), voxel_size, max_points, seed=3)
    sieve = VoxelDownsampler(voxel_size, max_points, seed=3)
    for share in shares:
        sieve.add(share)
    assert sieve.result().source.tolist() == together.source.tolist()
