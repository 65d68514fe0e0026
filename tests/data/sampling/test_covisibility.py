"""Walks through photographs that see the same."""

import numpy as np

from scal3r_train.data.sampling.covisibility import NUM_RECENT, covisible_walk


def ring(num: int, reach: int) -> np.ndarray:
    """Frames on a circle that see those up to `reach` places away."""
    offsets = [sign * step for step in range(1, reach + 1) for sign in (1, -1)]
    return (np.arange(num)[:, None] + offsets) % num


def test_each_frame_is_covisible_with_a_recent_one() -> None:
    covisible = ring(40, 2)
    walk = covisible_walk(covisible, 5, 12, seed=3)
    assert walk[0] == 5
    assert len(set(walk)) == 12
    for place in range(1, 12):
        recent = walk[max(0, place - NUM_RECENT) : place]
        assert any(walk[place] in covisible[frame] for frame in recent)


def test_the_seed_decides() -> None:
    covisible = ring(40, 3)
    assert covisible_walk(covisible, 0, 20, seed=1) == covisible_walk(covisible, 0, 20, seed=1)
    assert covisible_walk(covisible, 0, 20, seed=1) != covisible_walk(covisible, 0, 20, seed=2)


def test_every_frame_of_what_hangs_together_comes_before_any_comes_twice() -> None:
    walk = covisible_walk(ring(9, 1), 4, 9, seed=0)
    assert sorted(walk) == list(range(9))
    island = np.array([[1, -1], [0, -1], [3, -1], [2, -1]])  # 0-1 and 2-3
    walk = covisible_walk(island, 0, 5, seed=0)
    assert set(walk) == {0, 1}  # what is not seen from here never comes


def test_a_frame_alone_is_repeated() -> None:
    assert covisible_walk(np.full((3, 2), -1), 1, 3, seed=0) == [1, 1, 1]
