"""The window that takes the place of one that cannot be read: equal on all ranks, of the same shape, of other data."""

from dataclasses import replace

import numpy as np
import pytest

from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.plan import (
    GroupPlan,
    Source,
    StepPlan,
    Window,
    WindowSlot,
    fallback_window,
    plan_step,
)

CURRICULUM = CurriculumSettings(
    group_size={1: 1.0, 2: 1.0},
    sequences_per_group=2,
    chunks_per_rank={1: 1.0, 2: 1.0},
    chunk_size={4: 1.0},
    overlap={1: 1.0},
    stride={1: 1.0, 2: 1.0},
)
SOURCES = [Source("a", 3.0, np.full(50, 40)), Source("b", 1.0, np.full(50, 12))]


def fallback(
    plan: StepPlan,
    group: GroupPlan,
    attempt: int = 1,
    avoided: tuple[tuple[int, int], ...] = (),
    sources: list[Source] = SOURCES,
    place: int = 0,
) -> Window:
    return fallback_window(CURRICULUM, sources, 7, WindowSlot(plan, group, place), attempt, avoided)


def plans() -> list[StepPlan]:
    return [plan_step(CURRICULUM, SOURCES, 7, step, 8) for step in range(200)]


def test_it_is_the_same_whoever_asks_and_whenever() -> None:
    plan = plans()[5]
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    first = fallback(plan, plan.groups[0], avoided=((0, 3),))
    np.random.seed(2)  # noqa: NPY002
    assert fallback(plans()[5], plans()[5].groups[0], avoided=((0, 3),)) == first


def test_it_fits_where_the_lost_window_was() -> None:
    """Same number of chunks unless the sequence is too short, frames inside of it."""
    for plan in plans():
        for group in plan.groups:
            window = fallback(plan, group)
            chunks = len(group.ranks) * plan.shape.chunks_per_rank
            assert 1 <= window.num_chunks <= chunks
            if window.source == 0:
                assert window.num_chunks == chunks  # 40 frames hold 4 chunks of 4 at stride 2
            frames = [
                frame
                for rank in group.ranks
                for chunk in plan.for_rank(rank).chunks
                for frame in plan.for_rank(rank).chunk_frames(window, chunk) or []
            ]
            assert 0 <= min(frames) and max(frames) < SOURCES[window.source].num_frames[window.row]


def test_other_steps_groups_places_and_attempts_get_other_windows() -> None:
    seeds = set()
    count = 0
    for plan in plans()[:20]:
        for group in plan.groups:
            for place in (0, 1):
                for attempt in (1, 2, 3):
                    seeds.add(fallback(plan, group, attempt, place=place).seed)
                    count += 1
            seeds |= {window.seed for window in group.windows}
            count += len(group.windows)
    assert len(seeds) == count


def test_the_mixture_is_kept() -> None:
    drawn = [fallback(plan, group).source for plan in plans() for group in plan.groups]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.06)  # standard error below 0.015


def test_sequences_that_failed_are_avoided() -> None:
    avoided = tuple((0, row) for row in range(49)) + tuple((1, row) for row in range(50))
    for plan in plans():
        window = fallback(plan, plan.groups[0], avoided=avoided[:-40])
        assert (window.source, window.row) not in avoided[:-40]


def test_the_only_sequence_comes_back() -> None:
    """Its other frames may be readable."""
    alone = [replace(SOURCES[0], num_frames=np.array([40]))]
    plan = plan_step(CURRICULUM, alone, 7, 0, 8)
    windows = [fallback(plan, plan.groups[0], attempt, ((0, 0),), alone) for attempt in range(1, 20)]
    assert {(window.source, window.row) for window in windows} == {(0, 0)}
    assert len({window.start for window in windows}) > 5
