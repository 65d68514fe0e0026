"""The step plan: which rank trains on which chunks of which sequence in a step, as a pure function.

Every rank computes the whole plan alone and all agree, so nothing is communicated and there is no sampler state:
resuming is starting at the next step, and the plan of 1,024 ranks can be printed on a laptop. Another window in place
of one that cannot be read is such a function too, so that all ranks take the same one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.sampling.curriculum import CurriculumSettings, Resolution
from scal3r_train.parallel.context_groups import draw_partition

MAX_DRAWS = 100


@dataclass(frozen=True)
class Source:
    """One index of the mixture: its weight and the lengths of its sequences.

    Attributes:
        name: for messages.
        weight: relative share of the drawn sequences.
        num_frames: [sequences] int64, or None while the index does not exist; lengths are then taken as sufficient.
            0 for a sequence that must not be drawn.
        aspects: [sequences] width / height of the images, or None when unknown.
        is_ordered: [sequences] whether the frames are a video's, or None when all are.
    """

    name: str
    weight: float
    num_frames: np.ndarray | None
    aspects: np.ndarray | None = None
    is_ordered: np.ndarray | None = None

    @cached_property
    def _by_length(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows by increasing length, and those lengths."""
        assert self.num_frames is not None
        rows = np.argsort(self.num_frames, kind="stable")
        return rows, self.num_frames[rows]

    def rows_with(self, num_frames: int) -> np.ndarray:
        """Return the rows of all sequences with at least `num_frames` frames."""
        rows, lengths = self._by_length
        return rows[np.searchsorted(lengths, num_frames) :]

    def rows_like(self, rows: np.ndarray, aspect: float, min_kept_area: float) -> np.ndarray:
        """Return those of the rows whose images keep this share when cropped to an aspect; all if none does."""
        if self.aspects is None or min_kept_area == 0:
            return rows
        ratio = self.aspects[rows] / aspect
        fitting = rows[np.minimum(ratio, 1 / ratio) >= min_kept_area]
        return fitting if len(fitting) else rows


@dataclass(frozen=True)
class Window:
    """A run of chunks through one sequence.

    Attributes:
        source, row: which sequence of the mixture; row is -1 when the index is unknown.
        start, stride: first frame and step between frames.
        is_reversed: whether time runs backwards.
        num_chunks: chunks that the sequence can fill; further ones are padding.
        seed: for augmentation; equal on all ranks that share the window.
    """

    source: int
    row: int
    start: int
    stride: int
    is_reversed: bool
    num_chunks: int
    seed: int


@dataclass(frozen=True)
class StepShape:
    """What is equal on all ranks in a step, so that none waits for another."""

    chunk_size: int
    overlap: int
    chunks_per_rank: int
    resolution: Resolution

    def window_frames(self, num_chunks: int) -> int:
        """Return the frames that `num_chunks` overlapping chunks span."""
        return num_chunks * (self.chunk_size - self.overlap) + self.overlap


@dataclass(frozen=True)
class GroupPlan:
    """A context group: consecutive ranks that share the windows of the same sequences."""

    ranks: range
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class RankPlan:
    """The part of a step that one rank computes."""

    shape: StepShape
    group: GroupPlan
    chunks: range

    def chunk_frames(self, window: Window, chunk: int) -> list[int] | None:
        """Return the frame indices of a chunk of a window in the order they are shown, None for padding."""
        if chunk >= window.num_chunks:
            return None
        total = self.shape.window_frames(window.num_chunks)
        begin = chunk * (self.shape.chunk_size - self.shape.overlap)
        places = range(begin, begin + self.shape.chunk_size)
        return [window.start + window.stride * (total - 1 - p if window.is_reversed else p) for p in places]


@dataclass(frozen=True)
class StepPlan:
    """The whole step, for every rank."""

    step: int
    shape: StepShape
    groups: tuple[GroupPlan, ...]

    def for_rank(self, rank: int) -> RankPlan:
        """Return what one rank computes."""
        group = next(group for group in self.groups if rank in group.ranks)
        first = (rank - group.ranks.start) * self.shape.chunks_per_rank
        return RankPlan(self.shape, group, range(first, first + self.shape.chunks_per_rank))

    @property
    def num_real_chunks(self) -> int:
        """Chunks of the step over all ranks, without padding."""
        return sum(window.num_chunks for group in self.groups for window in group.windows)

    def num_frames(self) -> Counter[int]:
        """Return the frames that are shown of each source, those of overlaps as often as they are."""
        counts: Counter[int] = Counter()
        for window in (window for group in self.groups for window in group.windows):
            counts[window.source] += window.num_chunks * self.shape.chunk_size
        return counts

    @property
    def num_sequences(self) -> int:
        """Sequences of the step over all context groups."""
        return sum(len(group.windows) for group in self.groups)


def plan_step(
    settings: CurriculumSettings, sources: Sequence[Source], seed: int, step: int, world_size: int
) -> StepPlan:
    """Return the plan of a step; the same arguments give the same plan everywhere.

    Args:
        settings: whose stages count plans (`CurriculumSettings.in_plans`), as `step` does.
        sources: the mixture.
        seed: of the run.
        step: number of the plan; an optimizer step takes `optim.accumulation_steps` of them.
        world_size: number of ranks.

    Raises:
        UserError: a source has no sequence with as many frames as a chunk.
    """
    settings = settings.at(step)
    generator = np.random.default_rng([seed, step])
    shape = StepShape(
        chunk_size=_draw(settings.chunk_size, generator),
        overlap=_draw(settings.overlap, generator),
        chunks_per_rank=_draw(settings.chunks_per_rank, generator),
        resolution=settings.resolution[_draw_index([r.weight for r in settings.resolution], generator)],
    )
    stride = _draw(settings.stride, generator)
    groups = tuple(
        GroupPlan(
            ranks=ranks,
            windows=tuple(
                draw_window(sources, shape, len(ranks) * shape.chunks_per_rank, stride, settings, generator)
                for _ in range(settings.sequences_per_group)
            ),
        )
        for ranks in draw_partition(world_size, settings.group_size, generator)
    )
    return StepPlan(step, shape, groups)


def draw_window(
    sources: Sequence[Source],
    shape: StepShape,
    num_chunks: int,
    stride: int,
    settings: CurriculumSettings,
    generator: np.random.Generator,
) -> Window:
    """Draw a sequence long enough for the window if there is one, else a shorter one and fewer chunks."""
    place = _draw_index([source.weight for source in sources], generator)
    source = sources[place]
    row_draw, start_draw, reverse_draw = generator.random(3)
    window_seed = int(generator.integers(2**31))
    is_reversed = bool(reverse_draw < settings.reverse_probability)
    if source.num_frames is None:
        return Window(place, -1, 0, stride, is_reversed, num_chunks, window_seed)
    if source.is_ordered is not None and not source.is_ordered.any():
        stride = 1  # photographs have no order to stride through
    span = (shape.window_frames(num_chunks) - 1) * stride + 1
    row = _draw_row(source, span, shape, settings.min_kept_area, row_draw)
    length = int(source.num_frames[row])
    is_walk = source.is_ordered is not None and not source.is_ordered[row]
    stride = max(1, min(stride, (length - 1) // max(1, shape.window_frames(num_chunks) - 1)))
    step = shape.chunk_size - shape.overlap
    num_chunks = min(num_chunks, (length - shape.overlap) // step)
    free = length - ((shape.window_frames(num_chunks) - 1) * stride + 1)
    free = length - 1 if is_walk else free  # a walk may begin anywhere
    start = min(int(start_draw * (free + 1)), free)
    return Window(place, row, start, stride, is_reversed, num_chunks, window_seed)


def _draw_row(source: Source, span: int, shape: StepShape, min_kept_area: float, draw: float) -> int:
    aspect = shape.resolution.width / shape.resolution.height
    for needed in (span, shape.chunk_size):
        rows = source.rows_like(source.rows_with(needed), aspect, min_kept_area)
        if len(rows) > 0:
            return int(rows[min(int(draw * len(rows)), len(rows) - 1)])
    assert source.num_frames is not None
    longest = int(max(source.num_frames, default=0))
    raise UserError(
        f"data source {source.name}: its longest sequence has {longest} frames, a chunk needs {shape.chunk_size}; "
        "lower curriculum.chunk_size or drop the source"
    )


def _draw(weights: Mapping[int, float], generator: np.random.Generator) -> int:
    values = list(weights)
    return values[_draw_index([weights[value] for value in values], generator)]


def _draw_index(weights: Sequence[float], generator: np.random.Generator) -> int:
    cumulative = list(accumulate(weights))
    return bisect_right(cumulative, generator.random() * cumulative[-1], hi=len(cumulative) - 1)


@dataclass(frozen=True)
class WindowSlot:
    """Where a window is in a plan: in which step, for which context group, which of the group's windows."""

    plan: StepPlan
    group: GroupPlan
    place: int


def fallback_window(
    settings: CurriculumSettings,
    sources: Sequence[Source],
    seed: int,
    slot: WindowSlot,
    attempt: int,
    avoided: Collection[tuple[int, int]],
) -> Window:
    """Return a window of the same shape as the one in the slot, drawn like it from the whole mixture.

    It depends on the arguments only and not on what was read before, so that a resumed run draws it again.

    Args:
        settings: curriculum of the plan.
        sources: the mixture.
        seed: of the run.
        slot: of the window that cannot be read, as planned.
        attempt: 1 for the first window in its place, 2 for the next.
        avoided: (source, row) of the sequences not wanted again; one of them comes back where there is no other.
    """
    assert attempt >= 1, "trailing zeros would not change the generator's seed, and the plan has [seed, step]"
    plan, group = slot.plan, slot.group
    generator = np.random.default_rng([seed, plan.step, group.ranks.start, slot.place, attempt])
    num_chunks = len(group.ranks) * plan.shape.chunks_per_rank
    for _ in range(MAX_DRAWS):
        window = draw_window(
            sources, plan.shape, num_chunks, group.windows[slot.place].stride, settings, generator
        )
        if (window.source, window.row) not in avoided:
            break
    return window
