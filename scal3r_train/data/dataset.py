"""From a step number to this rank's chunks: the data set of a training run.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.frame_io import read_frames
from scal3r_train.data.index import SequenceIndex, load_index
from scal3r_train.data.plan import RankPlan, Source, Window
from scal3r_train.data.reading_process import obey_parent_only
from scal3r_train.data.sequence import Frames, SequenceBatch
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.model.chunk_batch import reference_index


class SourceSettings(StrictModel):
    """One index of the mixture."""

    index: str = Field(description="Parquet index")
    weight: float = Field(default=1.0, gt=0, description="relative share of the drawn sequences")


class DataSettings(StrictModel):
    """The `data` section of a training recipe."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    missing: Literal["refuse", "skip"] = Field(
        default="refuse", description="what to do when indexes do not exist; skip trains on the others"
    )
    num_workers: int = Field(default=0, ge=0, description="reading processes per rank; 0 reads in the loop")
    max_fallbacks_per_step: int = Field(
        default=8,
        ge=0,
        description="other windows tried in place of one that cannot be read before the run ends; 0: none",
    )
    max_fallback_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of steps with unreadable data (of at least 100) above which the run ends",
    )


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


def open_sources(settings: DataSettings) -> tuple[list[SequenceIndex], list[Source]]:
    """Load the indexes of a mixture and what the plan needs to know of them."""
    indexes = [load_index(source.index) for source in settings.sources]
    for source, index in zip(settings.sources, indexes, strict=True):
        _refuse_untrainable(source.index, index)
    sources = [
        Source(source.index, source.weight, np.asarray(index.num_frames, dtype=np.int64))
        for source, index in zip(settings.sources, indexes, strict=True)
    ]
    return indexes, sources


def _refuse_untrainable(name: str, index: SequenceIndex) -> None:
    for field, column in (("poses", "cam_from_world"), ("intrinsics", "intrinsics")):
        lacking = index.rows_without(column)
        if lacking:
            raise UserError(
                f"data source {name}: sequence {index.sequence_ids[lacking[0]]!r} has no {field}; it cannot be "
                "trained on"
            )


class StepDataset(Dataset):
    """Maps a step to this rank's batch; steps can be asked for in any order, by any worker process."""

    def __init__(
        self, indexes: Sequence[SequenceIndex], plan_of_step: Callable[[int], RankPlan], jitter: float
    ) -> None:
        """Read from `indexes` what `plan_of_step` asks for, with relative colour `jitter`."""
        self.indexes = indexes
        self.plan_of_step = plan_of_step
        self.jitter = jitter

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
        chunks = [plan.chunk_frames(window, chunk) for chunk in plan.chunks]
        wanted = sorted({frame for chunk in chunks if chunk is not None for frame in chunk})
        places = {frame: place for place, frame in enumerate(wanted)}
        jitter = _colour_jitter(window.seed, self.jitter)
        frames = read_frames(record, wanted, size) if wanted else None
        parts = [_padding(plan.shape.chunk_size, size)] * len(chunks)
        for place, chunk in enumerate(chunks):
            if chunk is not None and frames is not None:
                parts[place] = _chunk(frames, [places[frame] for frame in chunk], jitter)
        return _join([replace(part, sequence_ids=(record.sequence_id,)) for part in parts], axis=1)


def _chunk(frames: Frames, places: list[int], jitter: Callable[[Tensor], Tensor]) -> SequenceBatch:
    """Return one chunk, B = K = 1, with extrinsics relative to its reference frame."""
    assert frames.extrinsics is not None, "refused when the source was opened"
    assert frames.intrinsics is not None, "refused when the source was opened"
    extrinsics = frames.extrinsics[places]
    world_from_reference = invert_extrinsics(extrinsics[reference_index(len(places))])
    images = jitter(frames.images[places])
    return SequenceBatch(
        images=images[None, None],
        depth=(torch.zeros_like(images[:, 0]) if frames.depth is None else frames.depth[places])[None, None],
        extrinsics=compose_extrinsics(extrinsics, world_from_reference.expand_as(extrinsics)).float()[
            None, None
        ],
        intrinsics=frames.intrinsics[places].float()[None, None],
        chunk_mask=torch.ones(1, 1, dtype=torch.bool),
        sequence_ids=(),
    )


def _padding(num_frames: int, size: tuple[int, int]) -> SequenceBatch:
    """Return a chunk, B = K = 1, that only keeps the work equal; nothing of it counts."""
    return SequenceBatch(
        images=torch.zeros(1, 1, num_frames, 3, *size),
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
    )


def _colour_jitter(seed: int, strength: float) -> Callable[[Tensor], Tensor]:
    """Return a change of gain and brightness per channel, the same for all frames of a window."""
    if strength == 0:
        return lambda images: images
    draws = torch.from_numpy(np.random.default_rng(seed).uniform(-strength, strength, (2, 3, 1, 1))).float()
    gain, offset = 1 + draws[0], 0.5 * draws[1]
    return lambda images: ((images - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def step_loader(
    dataset: StepDataset, steps: range, num_workers: int
) -> Iterator[SequenceBatch | FailedBatch]:
    """Iterate over the batches of consecutive steps, reading ahead in `num_workers` processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=2 if num_workers > 0 else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # it draws seeds for its processes: not from the run's random state
        worker_init_fn=obey_parent_only,
    )
    return iter(loader)
