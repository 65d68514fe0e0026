"""Settings of `scal3r data check`, given as key=value."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scal3r_train.config import StrictModel


class CheckSettings(StrictModel):
    """How much is looked at, and where the report goes."""

    decode_every: int = Field(1, ge=0, description="decode every Nth frame; 0: only those of the pairs")
    num_pairs: int = Field(36, ge=3, le=1000, description="pairs of frames that are compared per sequence")
    gaps: tuple[int, ...] = Field((1, 3, 8), min_length=1, description="frames between the two of a pair")
    max_side: int = Field(800, ge=64, le=8192, description="images are shrunk to this side to find matches")
    max_features: int = Field(1500, ge=50, le=20000, description="points per image that are matched")
    num_workers: int = Field(4, ge=1, le=256, description="threads that decode")
    max_sequences: int = Field(
        0, ge=0, description="check this many sequences, spread over the index; 0: all"
    )
    report: Path | None = Field(
        None, description="folder to write report.html, report.json and pictures into"
    )
