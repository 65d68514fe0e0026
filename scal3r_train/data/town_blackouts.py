"""Which frames of a town show nothing, and the file that tells evaluation so.

A black-out hides the picture only: poses, intrinsics and depth of its frames stay exact. Shapes: S frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.town_settings import TownSettings

BLACKOUT_FILE = "blackouts.txt"


def draw_blackouts(rng: np.random.Generator, settings: TownSettings) -> np.ndarray:
    """Return [S] bool: in a share of the sequences, one interval in each of `blackouts` equal parts; never frame 0."""
    num = settings.num_frames
    bounds = np.linspace(0, num, settings.blackouts + 1).astype(int)
    is_hidden = np.zeros(num, bool)
    for first, stop in zip(bounds[:-1], bounds[1:], strict=True):
        length = max(1, min(settings.blackout_frames, (stop - first) // 2))
        start = int(rng.integers(max(first, 1), stop - length + 1))
        is_hidden[start : start + length] = True
    return is_hidden & (rng.random() < settings.blackout_share)


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
