"""The options of `scal3r render`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from scal3r_train.config import StrictModel

OBSERVERS = ("chase", "follow", "orbit", "top")
COLOURS = ("image", "confidence", "chunk", "height")
MOST_PIXELS = 8192


class RenderOptions(StrictModel):
    """Options of `scal3r render`."""

    path: Literal["chase", "follow", "orbit", "top"] = Field(
        "chase",
        description="Where the observer is: behind and above the camera, in it, round the scene, or above it.",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        le=3600,
        description="Length; without, that of the frames at the video's rate, from 6 to 60 [s]",
    )
    fps: float = Field(30.0, ge=1, le=120, description="Rate [frames/s]")
    size: str = Field("1280x720", description="Width x height, even numbers for mp4 [pixels]")
    colours: Literal["image", "confidence", "chunk", "height"] = Field(
        "image", description="What the points' colours mean."
    )
    background: Literal["dark", "light"] = Field("dark", description="Behind the points.")
    point_size: float = Field(
        1.0,
        gt=0,
        le=20,
        description="Size of points, relative to one that closes the gaps between them [points]",
    )
    hide_doubtful: float = Field(
        0.0, ge=0, lt=100, description="This share of the points, the least confident, is left out [%]"
    )
    max_points: int = Field(
        2_000_000, ge=1, description="Most points that are drawn, evenly over the scene [points]"
    )
    whole: bool = Field(
        False, description="All points are there from the start, instead of those of the frames so far."
    )
    inset: bool = Field(False, description="The input image in a corner.")
    truth: str | None = Field(
        None, description="Ground truth to draw: poses in TUM or KITTI format, or INDEX.parquet#sequence_id."
    )
    overwrite: bool = Field(False, description="Replace an existing file.")

    @field_validator("size")
    @classmethod
    def _two_sides(cls, value: str) -> str:
        sides = value.lower().split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdecimal() for side in sides):
            raise ValueError("write it as 1280x720")
        if not all(16 <= int(side) <= MOST_PIXELS for side in sides):
            raise ValueError(f"sides must have 16 to {MOST_PIXELS} pixels")
        return value

    @model_validator(mode="after")
    def _some_frames(self) -> RenderOptions:
        if self.seconds is not None and self.seconds * self.fps < 1:
            raise ValueError("seconds times fps gives no frame; make the video longer")
        return self

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the video."""
        width, height = (int(side) for side in self.size.lower().split("x"))
        return height, width
