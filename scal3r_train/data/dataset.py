"""The data set of a training run: from a step number, by the plan that every rank computes, to this rank's chunks.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scal3r_train.config import UserError
from scal3r_train.data.augmentation import WindowLook
from scal3r_train.data.index.index import SequenceIndex
from scal3r_train.data.io.frame_cache import FrameCache, require_room
from scal3r_train.data.io.frame_io import read_pixels
from scal3r_train.data.io.reading_process import begin_reading, note_small_shared_memory, shared_memory_named
from scal3r_train.data.sampling.covisibility import covisible_walk
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.plan import RankPlan, Source, StepPlan, Window, plan_step
from scal3r_train.data.sampling.sources import DataSettings, open_sources
from scal3r_train.data.sequence import SequenceBatch, SequenceRecord, SkippedFrame
from scal3r_train.data.window import WindowFrames, read_window, readable_places
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.model.chunk_batch import reference_index

PREFETCHED = 2  # batches that a reading process keeps ready


@dataclass(frozen=True)
class UnreadableWindow:
    """A window of a batch whose frames on this rank cannot be used.

    Attributes:
        place: of the window in its group's plan.
        sequence_id: of its sequence.
        reason: one line naming the file.
    """

    place: int
    sequence_id: str
    reason: str


@dataclass(frozen=True)
class FailedBatch:
    """A batch that could not be read, travelling to the step's vote instead of ending one rank alone."""

    windows: tuple[UnreadableWindow, ...]

    @property
    def message(self) -> str:
        """The first reason."""
        return self.windows[0].reason


class StepDataset(Dataset):
    """Maps a step to this rank's batch; steps can be asked for in any order, by any worker process."""

    def __init__(
        self,
        indexes: Sequence[SequenceIndex],
        plan_of_step: Callable[[int], RankPlan],
        settings: DataSettings,
    ) -> None:
        """Read from `indexes` what `plan_of_step` asks for."""
        self.indexes = indexes
        self.plan_of_step = plan_of_step
        self._max_skipped = settings.max_skipped_frames
        self._augmentation = settings.augmentation
        self._reader = read_pixels if settings.cache.folder is None else FrameCache(settings.cache).read

    def __getitem__(self, step: int) -> SequenceBatch | FailedBatch:
        """Return the chunks of a step, or why they could not be read."""
        return self.read(self.plan_of_step(step))

    def read(self, plan: RankPlan) -> SequenceBatch | FailedBatch:
        """Return the chunks that a plan names, or why they could not be read."""
        parts, failures = [], []
        for place, window in enumerate(plan.group.windows):
            try:
                parts.append(self._read_window(plan, window))
            except UserError as error:
                failures.append(UnreadableWindow(place, self.sequence_id(window), str(error)))
        return FailedBatch(tuple(failures)) if failures else _join(parts, axis=0)

    def sequence_id(self, window: Window) -> str:
        """Return the name of a window's sequence."""
        return self.indexes[window.source].sequence_ids[window.row]

    def _read_window(self, plan: RankPlan, window: Window) -> SequenceBatch:
        record = self.indexes[window.source][window.row]
        size = (plan.shape.resolution.height, plan.shape.resolution.width)
        chunks = chunk_frames(record, plan, window)
        wanted = list(dict.fromkeys(frame for chunk in chunks if chunk is not None for frame in chunk))
        places = {frame: place for place, frame in enumerate(wanted)}
        parts = [_padding(plan.shape.chunk_size, size)] * len(chunks)
        skipped: tuple[SkippedFrame, ...] = ()
        if wanted:
            look = WindowLook.draw(self._augmentation, window.seed)
            frames = read_window(record, wanted, size, look, self._reader)
            skipped = frames.skipped
            for place, chunk in enumerate(chunks):
                if chunk is not None:
                    shown = readable_places(frames, [places[frame] for frame in chunk], self._max_skipped)
                    parts[place] = _chunk(frames, shown)
        joined = _join([replace(part, sequence_ids=(record.sequence_id,)) for part in parts], axis=1)
        return replace(joined, skipped=skipped)


def num_bytes(plan: RankPlan) -> int:
    """Return the size of this rank's batch of a plan: uint8 images and float32 depth; cameras are small beside them."""
    height, width = plan.shape.resolution.height, plan.shape.resolution.width
    frames = len(plan.group.windows) * len(plan.chunks) * plan.shape.chunk_size
    return frames * height * width * (3 + 4)


def chunk_frames(record: SequenceRecord, plan: RankPlan, window: Window) -> list[list[int] | None]:
    """Return the frames of this rank's chunks of a window, None for padding.

    Ordered frames are taken in steps; unordered ones by a walk from each to what is seen with it.
    """
    if record.is_ordered or record.covisible is None:
        return [plan.chunk_frames(window, chunk) for chunk in plan.chunks]
    num_frames = plan.shape.window_frames(window.num_chunks)
    connected = np.flatnonzero((record.covisible >= 0).any(1))
    if len(connected) == 0:
        raise UserError(
            f"{record.root} ({record.sequence_id}): no two frames see the same; remove the sequence"
        )
    start = int(connected[np.searchsorted(connected, window.start) % len(connected)])
    walk = covisible_walk(record.covisible, start, num_frames, window.seed)
    in_order = replace(window, start=0, stride=1, is_reversed=False)
    chunks = [plan.chunk_frames(in_order, chunk) for chunk in plan.chunks]
    return [None if places is None else [walk[place] for place in places] for places in chunks]


def _chunk(frames: WindowFrames, places: list[int]) -> SequenceBatch:
    """Return one chunk, B = K = 1, with extrinsics relative to its reference frame."""
    extrinsics = frames.extrinsics[places]
    world_from_reference = invert_extrinsics(extrinsics[reference_index(len(places))])
    relative = compose_extrinsics(extrinsics, world_from_reference.expand_as(extrinsics))
    return SequenceBatch(
        images=frames.images[places][None, None],
        depth=frames.depth[places][None, None],
        extrinsics=relative.float()[None, None],
        intrinsics=frames.intrinsics[places].float()[None, None],
        chunk_mask=torch.ones(1, 1, dtype=torch.bool),
        sequence_ids=(),
    )


def _padding(num_frames: int, size: tuple[int, int]) -> SequenceBatch:
    """Return a chunk, B = K = 1, that only keeps the work equal; nothing of it counts."""
    return SequenceBatch(
        images=torch.zeros(1, 1, num_frames, 3, *size, dtype=torch.uint8),
        depth=torch.zeros(1, 1, num_frames, *size),
        extrinsics=torch.eye(4)[:3].expand(1, 1, num_frames, 3, 4),
        intrinsics=torch.eye(3).expand(1, 1, num_frames, 3, 3),
        chunk_mask=torch.zeros(1, 1, dtype=torch.bool),
        sequence_ids=(),
    )


def _join(parts: Sequence[SequenceBatch], axis: int) -> SequenceBatch:
    """Return the parts side by side: sequences along axis 0, or chunks of the same sequences along axis 1."""
    names = [name for part in parts for name in part.sequence_ids] if axis == 0 else parts[0].sequence_ids
    return SequenceBatch(
        images=torch.cat([part.images for part in parts], axis),
        depth=torch.cat([part.depth for part in parts], axis),
        extrinsics=torch.cat([part.extrinsics for part in parts], axis),
        intrinsics=torch.cat([part.intrinsics for part in parts], axis),
        chunk_mask=torch.cat([part.chunk_mask for part in parts], axis),
        sequence_ids=tuple(names),
        skipped=tuple(frame for part in parts for frame in part.skipped),
    )


def step_loader(
    dataset: StepDataset, steps: range, num_workers: int, timeout_s: float = 0.0
) -> Iterator[SequenceBatch | FailedBatch]:
    """Iterate over the batches of consecutive steps, reading ahead in `num_workers` processes.

    `timeout_s`: how long to wait for a batch of theirs before torch raises what `deaths_named` explains; 0: for ever.
    """
    if num_workers > 0 and len(steps) > 0:
        note_small_shared_memory(num_workers * PREFETCHED * num_bytes(dataset.plan_of_step(steps[0])))
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=PREFETCHED if num_workers > 0 else None,
        timeout=timeout_s if num_workers > 0 else 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # it draws seeds for its processes: not from the run's random state
        worker_init_fn=begin_reading,
    )
    with shared_memory_named():
        return iter(loader)


@dataclass(frozen=True)
class PlannedData:
    """A data set together with the plan that it follows."""

    sources: list[Source]
    curriculum: CurriculumSettings
    seed: int
    world_size: int
    dataset: StepDataset

    def plan(self, step: int) -> StepPlan:
        """Return the plan of a step."""
        return plan_step(self.curriculum, self.sources, self.seed, step, self.world_size)

    def num_frames(self, plans: Sequence[StepPlan]) -> Counter[str]:
        """Return how many frames plans show of each source, by its name (`short_names`)."""
        names = short_names([source.name for source in self.sources])
        counts: Counter[str] = Counter()
        for plan in plans:
            counts.update({names[source]: num for source, num in plan.num_frames().items()})
        return counts


def plan_data(
    settings: DataSettings, curriculum: CurriculumSettings, seed: int, rank: int, world_size: int
) -> PlannedData:
    """Open the sources and tie them to this rank's part of every step's plan."""
    zoom, stages = settings.augmentation.max_zoom, curriculum.every_stage()
    sizes = [size for stage in stages for size in stage.resolution]
    height, width = max(size.height for size in sizes), max(size.width for size in sizes)
    require_room(settings.cache, math.ceil(height * zoom), math.ceil(width * zoom))
    indexes, sources = open_sources(settings)
    # A partial, not a closure: it has to travel to reading processes where those are not forked.
    plan_of_rank = partial(_plan_of_rank, curriculum, sources, seed, world_size, rank)
    dataset = StepDataset(indexes, plan_of_rank, settings)
    return PlannedData(sources, curriculum, seed, world_size, dataset)


def _plan_of_rank(
    curriculum: CurriculumSettings, sources: list[Source], seed: int, world_size: int, rank: int, step: int
) -> RankPlan:
    return plan_step(curriculum, sources, seed, step, world_size).for_rank(rank)


def short_names(indexes: Sequence[str]) -> list[str]:
    """Return a name for each index: its file without ending, or its folder when all files are called index.

    Sources of the same name are numbered.
    """
    paths = [PurePath(index) for index in indexes]
    names = [path.parent.name if path.stem == "index" and path.parent.name else path.stem for path in paths]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]
