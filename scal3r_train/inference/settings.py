"""The recipe of a reconstruction: which frames, which network, how chunks are cut, joined and written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.transforms import ResizeRule
from scal3r_train.inference.align import AlignmentSettings
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.inference.follow_settings import FollowSettings
from scal3r_train.inference.load_model import ModelSettings
from scal3r_train.inference.prediction import PointSource


class InputSettings(StrictModel):
    """Which frames of the input are used, and at which size."""

    resize: ResizeRule | None = Field(
        None,
        description="How the size follows from the first image; null: the model's image_size is its long side.",
    )
    image_hw: tuple[int, int] | None = Field(
        None, description="Exact height and width to process at, instead of the rule."
    )
    start: int = Field(0, ge=0, description="First frame.")
    stop: int | None = Field(None, gt=0, description="Frame to stop before; null: the end.")
    stride: int = Field(1, ge=1, description="Use every stride-th frame.")
    max_frames: int | None = Field(None, gt=0, description="Use at most this many frames.")

    @model_validator(mode="after")
    def _has_frames(self) -> InputSettings:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop = {self.stop} must be greater than start = {self.start}")
        if self.image_hw is not None and min(self.image_hw) <= 0:
            raise ValueError(f"image_hw = {list(self.image_hw)} must be positive")
        return self

    def frame_indices(self, num_frames: int) -> list[int]:
        """Return which frames of a video of `num_frames` frames are used; UserError when none is."""
        chosen = range(self.start, min(self.stop or num_frames, num_frames), self.stride)[: self.max_frames]
        if not chosen:
            raise UserError(
                f"input.start = {self.start} lies beyond the video's {num_frames} frames; lower it"
            )
        return list(chosen)


class ExportSettings(StrictModel):
    """What is written, and how dense."""

    min_confidence_ratio: float = Field(
        0.75, ge=0, description="Pixels below this share of their frame's mean confidence give no point."
    )
    voxel_size: float | None = Field(
        None,
        ge=0,
        description="Points closer than about this merge; null: 1/500 of chunk 0's median depth; 0: off.",
    )
    max_points: int = Field(5_000_000, ge=1, description="Bound on points.ply.")
    seed: int = Field(0, ge=0, description="Of the choice when there are more points.")
    save_depth: bool = Field(False, description="Write depth and confidence of every frame (depth/).")
    overwrite: bool = Field(False, description="Replace an existing scene folder.")


class ReconstructionRecipe(StrictModel):
    """One reconstruction run; `scal3r reconstruct INPUT OUT [RECIPE] [key=value]`."""

    task: Literal["reconstruct"] = "reconstruct"
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    points: PointSource = Field(
        "depth", description="Points from depth and camera, or from the point head (which then runs too)."
    )
    schedule: ScheduleSettings = ScheduleSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    export: ExportSettings = ExportSettings()
    follow: FollowSettings = FollowSettings()
