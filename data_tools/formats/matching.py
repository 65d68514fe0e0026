"""Which pose, depth map or time belongs to which image: by name, time, number or order. Shapes: S images, P poses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from scal3r_data_tools.formats.pose_files import PoseTable
from scal3r_data_tools.formats.poses import nearest_index
from scal3r_train.config import UserError
from scal3r_train.text_file import folded

MatchBy = Literal["auto", "name", "time", "number", "order"]


@dataclass(frozen=True)
class Matched:
    """Row [S] of the table that each image has, -1 without; by what; and the poses that have no image, by name."""

    row: np.ndarray
    rule: str
    unused: tuple[str, ...] = ()


def match_poses(
    images: list[str],
    stamps: np.ndarray | None,
    table: PoseTable,
    where: str,
    by: MatchBy,
    max_gap_s: float,
) -> Matched:
    """Return the row of the table that each image has.

    Args:
        images: names, in order.
        stamps: [S] seconds, NaN where one has none; None without.
        table: of `where`.
        where: name of the table's file, for messages.
        by: what to go by; auto: names, else times that meet, else order where there are as many, else numbers.
        max_gap_s: furthest pose in time.

    Raises:
        UserError: nothing ties them, or what was asked for is not there.
    """
    if by == "auto":
        numbers = numbers_of(images)
        if table.name or {folded(Path(name).stem) for name in images} <= {folded(one) for one in table.label}:
            by = "name"
        elif table.time is not None and stamps is not None and _overlap(stamps, table.time):
            by = "time"
        elif len(table) == len(images):
            by = "order"
        elif numbers is not None and numbers.max() < len(table):
            by = "number"
        else:
            raise UserError(
                f"{where} has {len(table)} poses for {len(images)} images (the first is {images[0]}), and neither "
                f"names nor times tie them; its {example_of(table)}; give match=, times= or the right file"
            )
    if by == "name":
        row = _by_name(images, table, where)
        return Matched(row, "name", _unused(row, table))
    if by == "time":
        if stamps is None or table.time is None:
            lacks = "the images have no times (times=FILE)" if stamps is None else f"{where} has no times"
            raise UserError(f"match=time: {lacks}")
        return Matched(_by_time(stamps, table.time, max_gap_s), "time")
    if by == "number":
        numbers = numbers_of(images)
        if numbers is None:
            raise UserError(f"match=number: the name {images[0]} or another holds no number of its own")
        row = np.where(numbers < len(table), numbers, -1)
        return Matched(row, "number", _unused(row, table))
    if len(table) != len(images):
        raise UserError(f"match=order: {where} has {len(table)} poses for {len(images)} images")
    return Matched(np.arange(len(images)), "order")


def _by_name(images: list[str], table: PoseTable, where: str) -> np.ndarray:
    rows: dict[str, int] = {}
    for row, name in enumerate(table.name or table.label):
        plain = folded(name.replace("\\", "/").rsplit("/", 1)[-1])
        for key in dict.fromkeys((plain, plain.rsplit(".", 1)[0])):
            rows.setdefault(key, row)
    keys = [folded(name) for name in images]
    found = [rows.get(key, rows.get(key.rsplit(".", 1)[0], -1)) for key in keys]
    if max(found) < 0:
        first = (table.name or table.label or ("nothing",))[0]
        raise UserError(f"{where} names {first!r}, the images are called {images[0]!r}; no name is in both")
    return np.array(found)


def _unused(row: np.ndarray, table: PoseTable) -> tuple[str, ...]:
    """Poses of images that are not there: what the file calls them."""
    known = np.isfinite(table.pose).all((1, 2))
    known[row[row >= 0]] = False
    names = table.name or table.label
    return tuple(names[place] if names else f"pose {place}" for place in np.flatnonzero(known))


def _by_time(stamps: np.ndarray, times: np.ndarray, max_gap_s: float) -> np.ndarray:
    order = np.argsort(times, kind="stable")
    nearest = nearest_index(times[order], np.nan_to_num(stamps, nan=np.inf))
    gap = np.abs(times[order][nearest] - stamps)
    return np.where(gap <= max_gap_s, order[nearest], -1)


def _overlap(stamps: np.ndarray, times: np.ndarray) -> bool:
    """Whether two clocks can be one: their spans meet."""
    known = stamps[np.isfinite(stamps)]
    return bool(len(known) and known.min() <= np.nanmax(times) and np.nanmin(times) <= known.max())


def numbers_of(images: list[str]) -> np.ndarray | None:
    """Return the last number in each name, None where one has none or two images share one."""
    found = [re.findall(r"[0-9]+", Path(name).stem) for name in images]
    if not all(found):
        return None
    numbers = [int(groups[-1]) for groups in found]
    return (
        np.array(numbers, np.int64) if len(set(numbers)) == len(numbers) and max(numbers) < 1 << 31 else None
    )


def times_of_names(images: list[str]) -> np.ndarray | None:
    """Return the seconds [S] that names are: with a fraction, or 18 digits of nanoseconds; else None."""
    stems = [Path(name).stem for name in images]
    if all(re.fullmatch(r"\d+\.\d+", stem) for stem in stems):
        return np.array([float(stem) for stem in stems])
    if all(re.fullmatch(r"\d{18,19}", stem) for stem in stems):
        return np.array([int(stem) for stem in stems], np.float64) * 1e-9
    return None


def frame_keys(name: str) -> tuple[str, ...]:
    """Return what ties files of one frame together: names without suffixes and without words for content."""
    stem = name.split(".")[0] if not re.fullmatch(r"\d+\.\d+\..*", name) else name.rsplit(".", 1)[0]
    bare = re.sub(r"(?i)[._-]?(colou?r|rgb|image|img|pose|cam|camera|depth|mask|left|frame)[._-]?", "", stem)
    return tuple(dict.fromkeys(key for key in (name, stem, bare) if key))


def example_of(table: PoseTable) -> str:
    """Return what the poses of a table go by, for a message."""
    if table.name:
        return f"first name is {table.name[0]!r}"
    if table.time is not None:
        return f"times go from {np.nanmin(table.time):.6f} to {np.nanmax(table.time):.6f}"
    return "poses have neither names nor times"
