"""Levels of a cloud: every prefix covers it evenly; what is added in view is what a slow search would add."""

import numpy as np
import pytest

from scal3r_train.scene.visualization.level_of_detail import BEHIND, MIN_DISTANCE, PointLevels

NUM_POINTS = 30_000


def cloud(seed: int = 0) -> tuple[np.ndarray, ...]:
    """A bumpy surface, far denser on one side."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, NUM_POINTS) ** 3 * 100
    y = random.uniform(0, 50, NUM_POINTS)
    positions = np.stack([x, y, np.sin(x) + random.normal(0, 0.01, NUM_POINTS)], -1).astype(np.float32)
    number = np.arange(NUM_POINTS)
    colours = np.stack([number % 256, number // 256 % 256, number // 65536], -1).astype(np.uint8)
    return (
        positions,
        colours,
        random.uniform(1, 9, NUM_POINTS).astype(np.float32),
        (number // 100).astype(np.int32),
    )


@pytest.fixture(scope="module")
def levels() -> PointLevels:
    return PointLevels.build(*cloud(), voxel_size=0.1)


def test_all_points_are_there_once_with_what_belongs_to_them(levels: PointLevels) -> None:
    positions, _, confidence, frame = cloud()
    number = levels.colours.astype(int) @ [1, 256, 65536]
    assert (np.sort(number) == np.arange(NUM_POINTS)).all()
    assert (levels.positions == positions[number]).all()
    assert (levels.confidence == confidence[number]).all()
    assert (levels.frame == frame[number]).all()
    assert (np.diff(levels.level.astype(int)) <= 0).all()


def test_each_level_has_one_point_of_nearly_every_voxel_and_never_two(levels: PointLevels) -> None:
    assert len(levels.voxel_sizes) > 4
    for number, size in list(enumerate(levels.voxel_sizes))[1:]:
        below, kept = levels.positions[levels.level >= number - 1], levels.positions[levels.level >= number]
        start = below.min(0)
        cells_below, cells = (
            np.floor((part - start) / np.float32(size)).astype(int) for part in (below, kept)
        )
        assert len(np.unique(cells, axis=0)) == len(cells)
        assert len(cells) > 0.75 * len(np.unique(cells_below, axis=0))


def test_a_prefix_covers_everything(levels: PointLevels) -> None:
    """The dense side does not take it all, as it does in a random subset."""
    few = levels.positions[: NUM_POINTS // 20]
    share = (few[:, 0] > 50).mean()
    assert share > 0.35
    assert (levels.positions[:, 0] > 50).mean() < 0.25


def test_spacing_falls_as_more_is_shown(levels: PointLevels) -> None:
    spacings = [levels.spacing_of(np.array([place])) for place in (0, 100, 5000, NUM_POINTS - 1)]
    assert spacings == sorted(spacings, reverse=True)
    assert spacings[-1] == pytest.approx(0.1)


def test_filters_are_filters(levels: PointLevels) -> None:
    expected = (levels.confidence >= 4) & (levels.level >= 2) & (levels.frame >= 50) & (levels.frame < 70)
    assert (levels.passing(4.0, 2, (50, 70)) == np.flatnonzero(expected)).all()
    assert (levels.passing() == np.arange(NUM_POINTS)).all()


def test_points_of_unknown_frame_always_pass() -> None:
    positions, colours, confidence, _ = cloud()
    unknown = PointLevels.build(positions, colours, confidence, np.full(NUM_POINTS, -1, np.int32), 0.1)
    assert len(unknown.passing(frames=(3, 4))) == NUM_POINTS


def test_what_is_added_in_view_is_what_is_missed_most(levels: PointLevels) -> None:
    place, ahead, among = np.array([10.0, 20, 3]), np.array([1.0, 0.5, 0]), np.arange(4000, NUM_POINTS)
    chosen = levels.near(among, 3000, place, ahead)
    sizes = np.array([levels.voxel_sizes[1] / 2, *levels.voxel_sizes[1:]])
    missed = []
    for point in among:
        offset = levels.positions[point].astype(float) - place
        distance = max(np.linalg.norm(offset), MIN_DISTANCE * sizes[0])
        missed.append(sizes[levels.level[point]] / distance * (1 if offset @ ahead >= 0 else BEHIND))
    threshold = np.sort(missed)[-3000]
    assert len(np.unique(chosen)) == len(chosen) == 3000
    assert (np.array(missed)[chosen - 4000] >= threshold * (1 - 1e-4)).all()
    assert (levels.near(among[:5], 10, place, ahead) == among[:5]).all()


@pytest.mark.parametrize("number", [0, 1, 5])
def test_tiny_clouds(number: int) -> None:
    positions, colours, confidence, frame = (column[:number] for column in cloud())
    levels = PointLevels.build(positions, colours, confidence, frame, 0.0)
    assert len(levels) == number
    assert len(levels.passing()) == number
    assert levels.spacing_of(np.arange(number)) > 0


def test_points_without_place_are_left_out_and_equal_ones_stay() -> None:
    positions, colours, confidence, frame = cloud()
    positions = np.zeros_like(positions)
    positions[::2] = np.nan
    levels = PointLevels.build(positions, colours, confidence, frame, 0.0)
    assert len(levels) == NUM_POINTS // 2
