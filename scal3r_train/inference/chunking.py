"""Cutting a video into overlapping chunks (SPEC 2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel
from scal3r_train.inference.state_store import StoreKind


class ScheduleSettings(StrictModel):
    """How many frames pass the network together, and where chunks wait between two memories."""

    chunk_size: int = Field(60, ge=1, description="Frames of a chunk.")
    overlap: int = Field(
        30, gt=0, description="Frames that neighbouring chunks share, fewer than chunk_size."
    )
    state: StoreKind | Literal["auto"] = Field(
        "auto",
        description="Where the states of chunks wait: the first of device, host, disk, recompute that has room.",
    )
    state_limit_gib: float | None = Field(
        None, gt=0, description="Most memory for states on device or host; null: half of what is free."
    )
    frames_per_pass: int = Field(
        16, ge=1, description="Frames that pass frame-wise parts together; halved when memory runs out."
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
