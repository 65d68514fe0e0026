"""The step plan: pure, complete, equal work for all, and distributed as the curriculum says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.config import UserError
from scal3r_train.data.sampling.curriculum import CurriculumSettings, Resolution
from scal3r_train.data.sampling.plan import RankPlan, Source, StepPlan, Window, plan_step

MIXED = CurriculumSettings(
    group_size={1: 0.25, 2: 0.25, 4: 0.5},
    sequences_per_group=2,
    chunks_per_rank={1: 1, 3: 1},
    chunk_size={4: 1, 6: 2},
    overlap={0: 1, 2: 1, 3: 1},
    stride={1: 1, 2: 1},
    resolution=(Resolution(height=28, width=42), Resolution(height=56, width=42, weight=3)),
)
LONG = Source("long", 1.0, np.array([400, 900, 500, 800]))
SHORT = Source("short", 1.0, np.array([6, 7, 30, 11, 200]))


def chunks_of_window(plan: StepPlan, window_of_group: tuple[int, int]) -> list[list[int] | None]:
    """Frames of all chunks of one window, collected from the ranks that hold them."""
    group, window = window_of_group
    ranks = plan.groups[group].ranks
    parts: list[RankPlan] = [plan.for_rank(rank) for rank in ranks]
    return [
        part.chunk_frames(plan.groups[group].windows[window], chunk)
        for part in parts
        for chunk in part.chunks
    ]


def check_plan(plan: StepPlan, sources: list[Source], world_size: int) -> None:
    """Everything that must hold for any plan on known sources."""
    shape = plan.shape
    assert [rank for group in plan.groups for rank in group.ranks] == list(range(world_size))
    for rank in range(world_size):
        part = plan.for_rank(rank)
        assert rank in part.group.ranks
        assert len(part.chunks) == shape.chunks_per_rank
        assert len(part.group.windows) == len(plan.groups[0].windows)
    for g, group in enumerate(plan.groups):
        for w, window in enumerate(group.windows):
            chunks = chunks_of_window(plan, (g, w))
            assert len(chunks) == len(group.ranks) * shape.chunks_per_rank
            check_window(window, chunks, plan, int(sources[window.source].num_frames[window.row]))


def check_window(window: Window, chunks: list[list[int] | None], plan: StepPlan, length: int) -> None:
    """Real chunks first, each a run of frames, each continuing the one before, inside the sequence."""
    real = [chunk for chunk in chunks if chunk is not None]
    assert chunks[: len(real)] == real, "padding comes last"
    assert len(real) == window.num_chunks >= 1
    direction = -window.stride if window.is_reversed else window.stride
    for chunk in real:
        assert len(chunk) == plan.shape.chunk_size
        assert set(np.diff(chunk)) <= {direction}
        assert 0 <= min(chunk) <= max(chunk) < length
    for before, after in zip(real, real[1:], strict=False):
        overlap = plan.shape.overlap
        assert before[len(before) - overlap :] == after[:overlap]
        assert after[overlap] == before[-1] + direction
    if len(real) < len(chunks):  # padding only when one more chunk would not fit at any stride
        assert plan.shape.window_frames(len(real) + 1) > length


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 21), st.integers(0, 2**31), st.integers(0, 2**40))
def test_any_plan_is_complete_and_fair(world_size: int, seed: int, step: int) -> None:
    sources = [LONG, SHORT]
    check_plan(plan_step(MIXED, sources, seed, step, world_size), sources, world_size)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.data(),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_any_curriculum_fits_any_sequence(
    chunk_size: int, data: st.DataObject, lengths: list[int], stride: int, chunks_per_rank: int
) -> None:
    curriculum = CurriculumSettings(
        chunk_size={chunk_size: 1},
        overlap={data.draw(st.integers(0, chunk_size - 1)): 1},
        chunks_per_rank={chunks_per_rank: 1},
        stride={stride: 1},
    )
    sources = [Source("any", 1.0, np.array([*lengths, chunk_size]))]
    for step in range(5):
        check_plan(plan_step(curriculum, sources, 0, step, 2), sources, 2)


def test_same_arguments_same_plan_and_others_differ() -> None:
    first = plan_step(MIXED, [LONG], 3, 7, 8)
    assert plan_step(MIXED, [LONG], 3, 7, 8) == first
    assert plan_step(MIXED, [LONG], 3, 8, 8).groups != first.groups
    assert plan_step(MIXED, [LONG], 4, 7, 8).groups != first.groups


def test_window_seeds_do_not_repeat() -> None:
    plans = [plan_step(MIXED, [LONG], seed, step, 4) for seed in range(5) for step in range(100)]
    seeds = [window.seed for plan in plans for group in plan.groups for window in group.windows]
    assert len(set(seeds)) > len(seeds) - 3


def test_windows_that_run_backwards() -> None:
    always = MIXED.model_copy(update={"reverse_probability": 1.0})
    never = MIXED.model_copy(update={"reverse_probability": 0.0})
    for step in range(20):
        back, forth = (plan_step(curriculum, [LONG], 0, step, 2) for curriculum in (always, never))
        for group, other in zip(back.groups, forth.groups, strict=True):
            for window, same in zip(group.windows, other.windows, strict=True):
                assert window.is_reversed and not same.is_reversed
        frames = [chunk for chunk in chunks_of_window(back, (0, 0)) if chunk is not None]
        mirrored = [chunk for chunk in chunks_of_window(forth, (0, 0)) if chunk is not None]
        assert [i for chunk in frames for i in chunk] == [i for chunk in mirrored[::-1] for i in chunk[::-1]]


def test_long_enough_sequences_are_preferred_and_need_no_padding() -> None:
    curriculum = CurriculumSettings(chunk_size={8: 1}, overlap={4: 1}, chunks_per_rank={4: 1}, stride={2: 1})
    source = Source("mixed", 1.0, np.array([10, 39, 38, 60]))  # (4 * 4 + 4 - 1) * 2 + 1 = 39 frames needed
    windows = [plan_step(curriculum, [source], 0, step, 1).groups[0].windows[0] for step in range(60)]
    assert {window.row for window in windows} == {1, 3}
    assert {window.num_chunks for window in windows} == {4}
    assert {window.start for window in windows if window.row == 3} <= set(range(22))
    assert {window.start for window in windows if window.row == 1} == {0}


def test_short_sequences_slow_down_then_pad() -> None:
    curriculum = CurriculumSettings(chunk_size={4: 1}, overlap={0: 1}, chunks_per_rank={3: 1}, stride={3: 1})

    def window(length: int) -> Window:
        source = Source("one", 1.0, np.array([length]))
        return plan_step(curriculum, [source], 0, 0, 1).groups[0].windows[0]

    assert (window(34).stride, window(34).num_chunks) == (3, 3)
    assert (window(33).stride, window(33).num_chunks) == (2, 3)
    assert (window(22).stride, window(22).num_chunks) == (1, 3)
    assert (window(11).stride, window(11).num_chunks) == (1, 2)
    assert (window(4).stride, window(4).num_chunks, window(4).start) == (1, 1, 0)


def test_a_source_of_too_short_sequences_is_refused_by_name() -> None:
    curriculum = CurriculumSettings(chunk_size={8: 1}, overlap={4: 1})
    with pytest.raises(UserError, match=r"source tiny\.parquet: its longest sequence has 7 frames.* needs 8"):
        plan_step(curriculum, [Source("tiny.parquet", 1.0, np.array([7, 3]))], 0, 0, 1)


def test_unknown_lengths_are_taken_as_sufficient() -> None:
    plan = plan_step(MIXED, [Source("later.parquet", 1.0, None)], 0, 0, 8)
    window = plan.groups[0].windows[0]
    assert window.row == -1
    assert window.num_chunks == len(plan.groups[0].ranks) * plan.shape.chunks_per_rank
    assert plan.num_real_chunks == 8 * plan.shape.chunks_per_rank * MIXED.sequences_per_group


def test_counts_of_a_step() -> None:
    plan = plan_step(MIXED, [LONG, SHORT], 1, 5, 8)
    chunks = [
        chunk
        for g, group in enumerate(plan.groups)
        for w in range(len(group.windows))
        for chunk in chunks_of_window(plan, (g, w))
    ]
    assert plan.num_real_chunks == sum(chunk is not None for chunk in chunks)
    assert plan.num_sequences == 2 * len(plan.groups)


def shares(values: list[object]) -> dict[object, float]:
    return {value: count / len(values) for value, count in Counter(values).items()}


def test_draws_follow_the_weights() -> None:
    sources = [Source("a", 3.0, np.full(4, 900)), Source("b", 1.0, np.full(4, 900))]
    plans = [plan_step(MIXED, sources, 0, step, 8) for step in range(4000)]
    tolerance = 0.03  # four standard deviations of a share of 4,000 draws
    shapes = [plan.shape for plan in plans]
    windows = [window for plan in plans for group in plan.groups for window in group.windows]
    group_sizes = [len(group.ranks) for plan in plans for group in plan.groups for _ in group.ranks]
    for values, expected in (
        ([shape.chunk_size for shape in shapes], {4: 1 / 3, 6: 2 / 3}),
        ([shape.overlap for shape in shapes], {0: 1 / 3, 2: 1 / 3, 3: 1 / 3}),
        ([shape.chunks_per_rank for shape in shapes], {1: 0.5, 3: 0.5}),
        ([shape.resolution.height for shape in shapes], {28: 0.25, 56: 0.75}),
        ([window.stride for window in windows], {1: 0.5, 2: 0.5}),
        ([window.source for window in windows], {0: 0.75, 1: 0.25}),
        ([window.row for window in windows], dict.fromkeys(range(4), 0.25)),
        ([window.is_reversed for window in windows], {False: 0.5, True: 0.5}),
        (group_sizes, {1: 0.25, 2: 0.25, 4: 0.5}),
    ):
        assert shares(list(values)) == pytest.approx(expected, abs=tolerance)


def test_values_without_weight_are_never_drawn() -> None:
    curriculum = CurriculumSettings(chunk_size={4: 0, 8: 1, 16: 0}, overlap={2: 1})
    assert {plan_step(curriculum, [LONG], 0, step, 1).shape.chunk_size for step in range(200)} == {8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": {3: 1.0}}, "group_size 3 is no power of two"),
        ({"overlap": {8: 1.0}, "chunk_size": {8: 1.0}}, "overlap 8 must be below every chunk_size"),
        ({"stride": {1: 0.0}}, "stride needs at least one value with a positive weight"),
    ],
)
def test_contradictory_curricula_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurriculumSettings(**change)
