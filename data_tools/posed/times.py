"""When images were taken: from a file of times, or from their names. Shapes: S images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.matching import numbers_of, times_of_names
from scal3r_data_tools.formats.text import named_text
from scal3r_data_tools.posed.options import Options
from scal3r_train.config import UserError
from scal3r_train.text_file import SEPARATOR, as_number, folded, is_number

TIME_FILES = ("times.txt", "timestamps.txt", "rgb.txt")


def read_times(source: Path, images: list[str], options: Options) -> np.ndarray | None:
    """Time stamps [S] in seconds, by name or by order, None without."""
    if options.times == "none":
        return None
    if options.times == "auto":
        path = next(
            (source / name for name in TIME_FILES if (source / name).is_file()),
            None,
        )
        if path is None:
            return times_of_names(images)
    else:
        path = source / options.times
    text = named_text(path, "name the file of time stamps with times=FILE")
    rows = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    pairs = [SEPARATOR.split(row.strip(" \t,;"), maxsplit=1) for row in rows]
    if pairs and not any(is_number(word) for word in pairs[0]):  # a heading
        pairs = pairs[1:]
    bad = next((pair for pair in pairs if not is_number(pair[0]) and not is_number(pair[-1])), None)
    if bad is not None or not pairs:
        quoted = f"'{' '.join(bad)[:60]}' is no time" if bad else "no line holds a time"
        raise UserError(f"{path}: {quoted}; a line is a time in seconds, or a time and the name of an image")
    if all(len(pair) == 1 for pair in pairs):
        return _times_by_order(np.array([as_number(pair[0]) for pair in pairs]), images, path)
    by_name: dict[str, float] = {}
    for first, *rest in pairs:
        time, name = (first, " ".join(rest)) if is_number(first) else (rest[-1], first)
        for key in (name, name.split()[0] if name else ""):
            by_name.setdefault(folded(key.replace("\\", "/").rsplit("/", 1)[-1]), as_number(time))
    keys = [folded(name) for name in images]
    if not any(key in by_name for key in keys):
        raise UserError(f"{path} names {next(iter(by_name))}, but the images are called {images[0]}")
    return np.array([by_name.get(key, np.nan) for key in keys])


def _times_by_order(times: np.ndarray, images: list[str], path: Path) -> np.ndarray:
    if len(times) == len(images):
        return times
    numbers = numbers_of(images)
    if numbers is not None and numbers.max() < len(times):
        return times[numbers]
    raise UserError(
        f"{path} has {len(times)} times for {len(images)} images; give times=none or the right file"
    )
