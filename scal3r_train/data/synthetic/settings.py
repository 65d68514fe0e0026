"""Settings of the procedural towns, and which of their frames show nothing.

A black-out hides the picture only: poses, intrinsics and depth of its frames stay exact. blackouts.txt lists the
hidden frames for evaluation. Shapes: S frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from scal3r_train.config import StrictModel, UserError

BLACKOUT_FILE = "blackouts.txt"


class TownSettings(StrictModel):
    """What towns look like and how a camera drives through them; every sequence is a function of (seed, number)."""

    seed: int = Field(0, ge=0, description="first half of the key (seed, sequence number) of a sequence [-]")
    num_sequences: int = Field(16, gt=0, description="how many sequences to write [sequences]")
    num_frames: int = Field(120, gt=1, description="length of a sequence [frames]")
    height: int = Field(56, gt=0, le=4096, description="image height [pixels]")
    width: int = Field(84, gt=0, le=4096, description="image width [pixels]")
    min_fov_deg: float = Field(50.0, gt=5, lt=150, description="smallest horizontal field of view [deg]")
    max_fov_deg: float = Field(90.0, gt=5, lt=150, description="largest horizontal field of view [deg]")
    min_camera_height_m: float = Field(1.2, gt=0.2, description="lowest camera above the ground [m]")
    max_camera_height_m: float = Field(3.0, gt=0.2, description="highest camera above the ground [m]")
    min_speed_m: float = Field(0.3, gt=0, description="slowest mean speed [m/frame]")
    max_speed_m: float = Field(1.0, gt=0, description="fastest mean speed [m/frame]")
    max_yaw_deg: float = Field(
        4.0, gt=0, lt=45, description="fastest turn; the car slows down for it [deg/frame]"
    )
    wobble_deg: float = Field(1.5, ge=0, lt=20, description="amplitude of slow pitch and roll [deg]")
    closed_share: float = Field(
        0.4, ge=0, le=1, description="share of sequences that drive round a loop [share]"
    )
    steady_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of sequences with one speed and one turn all along, drawn anew for each sequence [share]",
    )
    fog_share: float = Field(0.2, ge=0, le=1, description="share of sequences with fog [share]")
    blackout_share: float = Field(
        0.0, ge=0, le=1, description="share of sequences with black-outs: frames that show nothing [share]"
    )
    blackouts: int = Field(
        1,
        gt=0,
        description="black-outs of such a sequence, one in each of as many equal parts of it [black-outs]",
    )
    blackout_frames: int = Field(
        8, gt=0, description="length of a black-out, at most half of its part of the sequence [frames]"
    )
    blackout_fog_m: float | None = Field(
        None,
        gt=0,
        le=20,
        description="black-outs are fog in which so far away 63 percent are hidden; null: black frames [m]",
    )
    max_depth_m: float = Field(
        150.0, gt=10, le=600, description="farther surfaces are drawn, but their depth is 0 [m]"
    )

    @model_validator(mode="after")
    def _ordered(self) -> TownSettings:
        for name, low, high in (
            ("fov_deg", self.min_fov_deg, self.max_fov_deg),
            ("camera_height_m", self.min_camera_height_m, self.max_camera_height_m),
            ("speed_m", self.min_speed_m, self.max_speed_m),
        ):
            if low > high:
                raise ValueError(f"min_{name} must not exceed max_{name}")
        return self


def draw_blackouts(rng: np.random.Generator, settings: TownSettings) -> np.ndarray:
    """Return [S] bool: in a share of the sequences, one interval in each of `blackouts` equal parts; never frame 0."""
    is_hidden = np.zeros(settings.num_frames, bool)
    for part in draw_intervals(rng, settings.num_frames, settings.blackouts, settings.blackout_frames):
        is_hidden[part] = True
    return is_hidden & (rng.random() < settings.blackout_share)


def draw_intervals(rng: np.random.Generator, num_frames: int, number: int, length: int) -> list[slice]:
    """Return `number` runs of frames, one in each of as many equal parts and at most half of it; never frame 0."""
    bounds = np.linspace(0, num_frames, number + 1).astype(int)
    found = []
    for first, stop in zip(bounds[:-1], bounds[1:], strict=True):
        fitting = max(1, min(length, (stop - first) // 2))
        start = int(rng.integers(max(first, 1), stop - fitting + 1))
        found.append(slice(start, start + fitting))
    return found


def write_blackouts(folder: Path, is_hidden: np.ndarray) -> None:
    """Note in a town's folder which frames show nothing, [S] bool: a line a frame, 1 or 0."""
    np.savetxt(folder / BLACKOUT_FILE, is_hidden.astype(int), fmt="%d", header="1: the frame shows nothing")


def read_blackouts(folder: Path, num_frames: int) -> np.ndarray:
    """Return what `write_blackouts` noted, [S] bool.

    Raises:
        UserError: there is no such file, as in towns of before, or it is not about `num_frames` frames.
    """
    path = folder / BLACKOUT_FILE
    try:
        values = np.loadtxt(path, dtype=int, ndmin=1)
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read; make the towns again with `scal3r data synth`") from None
    if values.shape != (num_frames,) or not np.isin(values, (0, 1)).all():
        raise UserError(f"{path} must hold a 0 or 1 for each of {num_frames} frames; make the towns again")
    return values.astype(bool)
