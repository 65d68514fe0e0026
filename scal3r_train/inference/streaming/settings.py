"""The `follow` section of a reconstruction: how long to wait for images, and what happens at the end."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scal3r_train.config import StrictModel


class StreamingSettings(StrictModel):
    """Reconstruction while images arrive; used with `--follow` only."""

    idle_s: float | None = Field(
        30.0, gt=0, description="End when nothing new came for so long; null: wait without end [s]"
    )
    poll_s: float = Field(0.5, gt=0, description="Time between two looks into the folder [s]")
    refine: bool = Field(
        False, description="At the end reconstruct all frames again, every chunk remembering all others."
    )
    spool: Path | None = Field(
        None, description="Folder for the images that come through a pipe; null: OUT.frames beside OUT."
    )
