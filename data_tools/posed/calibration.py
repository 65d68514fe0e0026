"""Focal lengths and principal points of a posed sequence, in its images' own pixels. Shapes: S images, N posed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.intrinsics_files import IntrinsicsTable, intrinsics_of_numbers, read_intrinsics
from scal3r_data_tools.formats.matching import Matched
from scal3r_data_tools.formats.pose_files import PoseTable
from scal3r_data_tools.posed.options import Options
from scal3r_train.config import UserError
from scal3r_train.notes import note
from scal3r_train.text_file import as_number, folded

INTRINSICS_FILES = (
    "intrinsics.txt",
    "intrinsic.txt",
    "camera-intrinsics.txt",
    "calib.txt",
    "calibration.txt",
    "K.txt",
    "intrinsics.json",
    "camera.json",
    "intrinsics/intrinsic_color.txt",
)


def find_calibration(source: Path, options: Options) -> tuple[IntrinsicsTable | None, str]:
    """What is given or lies there, and how to call it; None where a pose file or a field of view may say it."""
    if options.fov_x_deg is not None:
        return None, f"field of view {options.fov_x_deg:g} degrees, centre of the image"
    if options.intrinsics == "none":
        return None, "no calibration"
    if options.intrinsics == "auto":
        path = next((source / name for name in INTRINSICS_FILES if (source / name).is_file()), None)
        if path is None:
            return None, "no calibration file"
        return read_intrinsics(path, options.calibration_row), f"calibration of {path.name}"
    words = re.split(r"[\s,]+", options.intrinsics.strip())
    try:
        numbers = [as_number(word) for word in words]
    except ValueError:
        path = source / options.intrinsics
        return read_intrinsics(path, options.calibration_row), f"calibration of {options.intrinsics}"
    found = intrinsics_of_numbers(numbers, "intrinsics")
    if not np.isfinite(found.values).all() or (found.values[:, :2] <= 0).any():
        raise UserError(f"intrinsics = {options.intrinsics!r}: focal lengths must be above 0")
    return found, "calibration of the command line"


def intrinsics_of(
    images: list[str],
    known: np.ndarray,
    sizes: np.ndarray,
    table: PoseTable,
    matched: Matched,
    found: IntrinsicsTable | None,
    where: str,
    options: Options,
) -> np.ndarray | None:
    """Fx fy cx cy [N, 4] of the images that have a pose, in their own pixels; None when nothing says them."""
    if options.fov_x_deg is not None:
        width, height = sizes[:, 1], sizes[:, 0]
        focal = width / 2 / math.tan(math.radians(options.fov_x_deg) / 2)
        offset = 0.0 if options.pixel_centre == "half" else 0.5
        return np.stack([focal, focal, width / 2 - offset, height / 2 - offset], 1)
    if options.intrinsics == "none":
        return None
    if found is None:
        if table.intrinsics is None:
            note("no calibration was found; give intrinsics='fx fy cx cy', intrinsics=FILE or fov_x_deg=")
            return None
        return _resized(table.intrinsics[matched.row[known]], table.size_hw, sizes, options)
    values = found.values
    if found.name:
        names = [folded(name.replace("\\", "/").rsplit("/", 1)[-1]) for name in found.name]
        row = {name: place for place, name in enumerate(names)}
        lacking = next((images[place] for place in known if folded(images[place]) not in row), None)
        if lacking is not None:
            raise UserError(f"{where} names {found.name[0]!r} but not {lacking!r}")
        values = values[[row[folded(images[place])] for place in known]]
    elif len(values) == len(images):
        values = values[known]
    elif len(values) != 1:
        raise UserError(f"{where} has {len(values)} lines for {len(images)} images; one for all, or one each")
    return _resized(np.broadcast_to(values, (len(known), 4)), found.size_hw, sizes, options)


def _resized(
    values: np.ndarray, size_hw: np.ndarray | None, sizes: np.ndarray, options: Options
) -> np.ndarray:
    """The calibration at the images' size, where it was made at another."""
    if options.calibrated_size is not None:
        size_hw = np.array(options.calibrated_size[::-1])
    if size_hw is None:
        return np.array(values)
    scale = (sizes / size_hw)[:, ::-1]
    offset = 0.0 if options.pixel_centre == "half" else 0.5
    return np.concatenate([values[:, :2] * scale, (values[:, 2:] + offset) * scale - offset], 1)
