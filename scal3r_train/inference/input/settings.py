"""The `input` section of a reconstruction: which frames of the input, at which size, and what is known about them.

Shapes: S frames of the input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.camera.resize import ResizeRule, Side

TIME_NOISE_S = 1e-6  # of seconds since 1970 as float64


class InputSettings(StrictModel):
    """Which frames of the input are used, at which size, and what is known about them."""

    resize: ResizeRule | None = Field(
        None,
        description="How the size follows from the first image; null: the model's image_size is its long side.",
    )
    image_hw: tuple[Side, Side] | None = Field(
        None, description="Exact height and width to process at, instead of the rule [pixels]"
    )
    start: int = Field(0, ge=0, description="Number of the first frame, from 0 [frame]")
    stop: int | None = Field(None, gt=0, description="Frame to stop before; null: the end [frame]")
    start_s: float | None = Field(
        None, ge=0, description="Skip what comes earlier after the input's first frame [s]"
    )
    stop_s: float | None = Field(None, gt=0, description="Skip what comes as late after it, or later [s]")
    fps: float | None = Field(
        None,
        gt=0,
        description="Use the frames nearest to this rate, by their time stamps, instead of a stride [frames/s]",
    )
    stride: int = Field(1, ge=1, description="Use every stride-th frame [frames]")
    max_frames: int | None = Field(None, gt=0, description="Use at most this many frames [frames]")
    timestamps: Path | None = Field(
        None, description="File of times in seconds: one a line for every image, or lines `time name`."
    )
    masks: Path | None = Field(
        None, description="Folder of masks named like the images; black pixels are not used (docs/input.md)."
    )
    invert_masks: bool = Field(False, description="Black pixels of input.masks are used, all others are not.")
    intrinsics: tuple[float, float, float, float] | str | None = Field(
        None,
        description="Known cameras: 'fx fy cx cy' in pixels of the input image, 'from_index', or a COLMAP "
        "cameras.txt [pixels]",
    )
    cache_gib: float = Field(
        2.0, gt=0, description="Bound on decoded images kept in memory, by each process [GiB]"
    )
    read_threads: int = Field(
        4, ge=1, le=64, description="Images decoded at a time; a video is read by one [threads]"
    )

    @model_validator(mode="after")
    def _has_frames(self) -> InputSettings:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop = {self.stop} must be greater than start = {self.start}")
        if self.stop_s is not None and self.stop_s <= (self.start_s or 0):
            raise ValueError(f"stop_s = {self.stop_s} must be greater than start_s = {self.start_s or 0}")
        if self.fps is not None and self.stride > 1:
            raise ValueError(
                f"fps = {self.fps} and stride = {self.stride} exclude each other; give one of them"
            )
        if self.invert_masks and self.masks is None:
            raise ValueError("invert_masks turns the masks of input.masks; give that folder too")
        return self

    @property
    def needs_times(self) -> bool:
        """Whether frames are chosen by their times."""
        return any(value is not None for value in (self.start_s, self.stop_s, self.fps))

    def frame_indices(self, num_frames: int, times: np.ndarray | None = None) -> list[int]:
        """Return which frames of a video are used, ascending.

        Args:
            num_frames: S.
            times: [S] float64 seconds, increasing; needed when `needs_times`.

        Raises:
            UserError: no frame is left.
        """
        chosen = list(range(self.start, min(self.stop or num_frames, num_frames)))
        if not chosen:
            raise UserError(
                f"input.start = {self.start} lies beyond the video's {num_frames} frames; lower it"
            )
        if self.needs_times:
            assert times is not None, "frames are chosen by time"
            since_first = times - times[0]
            first, last = self.start_s or 0.0, np.inf if self.stop_s is None else self.stop_s
            chosen = [index for index in chosen if first <= since_first[index] < last]
            if not chosen:
                raise UserError(
                    f"no frame lies between input.start_s = {first:g} and input.stop_s = {last:g} "
                    f"(the input lasts {since_first[-1]:.3f} s); change them"
                )
            if self.fps is not None:
                chosen = nearest_at_rate(np.array(chosen), since_first, self.fps)
        return chosen[:: self.stride][: self.max_frames]


def nearest_at_rate(indices: np.ndarray, times: np.ndarray, fps: float) -> list[int]:
    """Return those of some frames that are nearest to the times t, t + 1 / fps, ... from the first of them on.

    A frame that is nearest to several of these times is taken once, so a slower input keeps its own rate. Of two
    equally near frames the earlier one is taken.

    Args:
        indices: of frames, ascending, at least one.
        times: [S] float64 seconds of all frames, increasing.
        fps: frames per second.
    """
    have = times[indices]
    wanted = have[0] + np.arange(int((have[-1] - have[0] + TIME_NOISE_S) * fps) + 1) / fps
    after = np.searchsorted(have, wanted).clip(1, len(have) - 1) if len(have) > 1 else np.zeros(1, int)
    before = np.maximum(after - 1, 0)
    is_before = wanted - have[before] <= have[after] - wanted + TIME_NOISE_S
    return [int(index) for index in indices[np.unique(np.where(is_before, before, after))]]
