"""Cutting a video into overlapping chunks (docs/numerics.md#chunks).

Which frames form which chunk, who holds it, and whose result is kept: a pure function of a few numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.parallel.context_groups import assign_chunks

StoreKind = Literal["device", "host", "disk", "recompute"]


class ScheduleSettings(StrictModel):
    """How many frames pass the network together, and where chunks wait between two memories."""

    chunk_size: int = Field(60, ge=1, description="How many frames a chunk has [frames]")
    overlap: int = Field(
        30, gt=0, description="Frames that neighbouring chunks share, fewer than chunk_size [frames]"
    )
    state: StoreKind | Literal["auto"] = Field(
        "auto",
        description="Where the states of chunks wait: the first of device, host, disk, recompute that has room.",
    )
    state_limit_gib: float | None = Field(
        None, gt=0, description="Most memory for states on device or host; null: half of what is free [GiB]"
    )
    frames_per_pass: int = Field(
        16,
        ge=1,
        description="Frames that pass frame-wise parts together; halved when memory runs out [frames]",
    )

    @model_validator(mode="after")
    def _chunks_advance(self) -> ScheduleSettings:
        if self.overlap >= self.chunk_size:
            raise ValueError(f"overlap = {self.overlap} must be less than chunk_size = {self.chunk_size}")
        return self


def chunk_ranges(num_frames: int, chunk_size: int, overlap: int) -> list[range]:
    """Return the frames of every chunk; neighbours share exactly `overlap` frames.

    A video of at most `chunk_size` frames is one chunk. The last chunk may be shorter than the others but
    never shorter than overlap + 1, so that every chunk but the first adds at least one frame of its own.
    """
    assert num_frames > 0
    assert 0 < overlap < chunk_size
    step = chunk_size - overlap
    num_chunks = max(1, -(-(num_frames - overlap) // step))
    return [range(k * step, min(k * step + chunk_size, num_frames)) for k in range(num_chunks)]


def provider_chunk_of_frame(num_frames: int, chunk_ranges: Sequence[range], overlap: int) -> list[int]:
    """For each frame, the chunk whose prediction is kept (docs/numerics.md#chunks).

    That is the last chunk k >= 1 which starts at least floor(overlap / 2) frames earlier, else chunk 0, so
    chunks meet in the middle of their overlap. `chunk_ranges` hold consecutive frames, in order.
    """
    providers, current = [], 0
    for frame in range(num_frames):
        while current + 1 < len(chunk_ranges) and frame >= chunk_ranges[current + 1].start + overlap // 2:
            current += 1
        assert frame in chunk_ranges[current], f"no chunk provides frame {frame}"
        providers.append(current)
    return providers


@dataclass(frozen=True)
class Layout:
    """How a video is cut.

    Attributes:
        ranges: frames of every chunk.
        provided: frames of every chunk whose result is mostly its own; together all frames, once.
        shared: frames that each chunk but the last decides together with the next one: the overlap, or of an overlap of
            more than half a chunk the middle.
        own: frames that each chunk decides alone; with the shared ones together all frames, once.
        assignment: chunks of every process, consecutive; processes beyond the number of chunks have none.
    """

    ranges: tuple[range, ...]
    provided: tuple[range, ...]
    shared: tuple[range, ...]
    own: tuple[range, ...]
    assignment: tuple[range, ...]

    @staticmethod
    def plan(num_frames: int, settings: ScheduleSettings, num_processes: int) -> Layout:
        """Return the layout of a video of `num_frames` frames."""
        ranges = chunk_ranges(num_frames, settings.chunk_size, settings.overlap)
        providers = provider_chunk_of_frame(num_frames, ranges, settings.overlap)
        starts = [providers.index(number) for number in range(len(ranges))]
        stops = [*starts[1:], num_frames]
        provided = [range(start, stop) for start, stop in zip(starts, stops, strict=True)]
        shared = [shared_window(chunk.start, settings) for chunk in ranges[1:]]
        bounds = [0, *(bound for frames in shared for bound in (frames.start, frames.stop)), num_frames]
        own = [range(start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True)]
        assignment = assign_chunks(len(ranges), num_processes)
        return Layout(tuple(ranges), tuple(provided), tuple(shared), tuple(own), tuple(assignment))

    def frames_of(self, chunks: range) -> range:
        """Return the frames that consecutive chunks cover together; empty for no chunks."""
        if not chunks:
            return range(0)
        return range(self.ranges[chunks[0]].start, self.ranges[chunks[-1]].stop)


def shared_window(start: int, settings: ScheduleSettings) -> range:
    """Return the frames that a chunk from frame `start` on decides together with the one before it.

    They lie around the middle of the overlap, and no further than to the next chunk's.
    """
    length = min(settings.overlap, settings.chunk_size - settings.overlap)
    first = start + settings.overlap // 2 - length // 2
    return range(first, first + length)
