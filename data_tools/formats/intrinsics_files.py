"""Focal lengths and principal points in whatever file somebody wrote them into.

    numbers             fx fy cx cy; f cx cy; fx fy cx cy width height; 3x3 or 4x4 matrix. Words are skipped.
    a line an image     fx fy cx cy, as many lines as there are images; a name in front names the image.
    KITTI               lines `P2: ` with 3x4 numbers; `K_02: ` with 9.
    JSON                fx fy cx cy (or fl_x ..), `K` or `intrinsics` or `camera_matrix` as 3x3; w h or width height.
Shapes: S images.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_data_tools.formats.json_files import is_finite_number, read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import named_text
from scal3r_train.config import UserError
from scal3r_train.notes import note
from scal3r_train.text_file import as_number, is_number

SEPARATOR = re.compile(r"[\s,;:=\[\]()]+")
ALIASES = {
    "fx": ("fx", "fl_x", "f_x", "focal_x", "focal", "f"),
    "fy": ("fy", "fl_y", "f_y", "focal_y", "focal", "f"),
    "cx": ("cx", "c_x", "ppx"),
    "cy": ("cy", "c_y", "ppy"),
}
LENS_KEYS = {"k1", "k2", "k3", "k4", "p1", "p2", "distortion", "dist_coeffs", "distortion_coefficients"}
MATRIX_KEYS = ("K", "k", "intrinsics", "intrinsic", "camera_matrix", "intrinsic_matrix", "cam_K")


@dataclass(frozen=True)
class IntrinsicsTable:
    """What a file says about cameras.

    Attributes:
        values: [1 or S, 4] fx fy cx cy in pixels.
        size_hw: [2] height, width that they belong to, None when the file does not say.
        name: images by line, () without.
        cam_from_rig: [3] translation from the camera that poses are given for to this one (KITTI's camera 0 to 2); the
            two do not differ in rotation.
    """

    values: np.ndarray
    size_hw: np.ndarray | None = None
    name: tuple[str, ...] = ()
    cam_from_rig: np.ndarray | None = None


@names_file("path")
def read_intrinsics(path: Path, row: str = "P2") -> IntrinsicsTable:
    """Return what a file says; `row` names the line of a KITTI calibration.

    Raises:
        UserError: it is missing, or none of the known forms; the message quotes what it holds.
    """
    if path.suffix.lower() == ".json":
        return _plausible(_of_json(read_json(path), path), path)
    text = named_text(path, "name the calibration with intrinsics=FILE")
    labelled = dict(re.findall(r"^(\w+)\s*:(.*)$", text, re.MULTILINE))
    if row in labelled:
        return _plausible(_of_projection(labelled[row], path, row), path)
    rows = [SEPARATOR.split(line.partition("#")[0].strip()) for line in text.splitlines()]
    rows = [[word for word in words if word] for words in rows]
    names: list[str] = []
    numbers: list[list[float]] = []
    for words in rows:
        values = [as_number(word) for word in words if is_number(word)]
        if values:
            numbers.append(values)
            names.append("" if is_number(words[0]) else words[0])
    if not numbers:
        raise UserError(f"{path} holds no numbers; is it the calibration?")
    return _plausible(_of_rows(numbers, names, path), path)


def intrinsics_of_numbers(numbers: list[float], where: str) -> IntrinsicsTable:
    """Return what 3, 4, 6, 9 or 16 numbers say. Raises UserError for another number of them."""
    values = np.array(numbers, np.float64)
    if len(values) == 3:
        return IntrinsicsTable(values[[0, 0, 1, 2]][None])
    if len(values) == 4:
        return IntrinsicsTable(values[None])
    if len(values) == 6:
        if not np.isfinite(values).all() or (values[4:] <= 0).any():
            raise UserError(f"{where}: its width and height are {values[4]:g} and {values[5]:g}")
        return IntrinsicsTable(values[None, :4], values[[5, 4]].astype(np.int64))
    if len(values) in (9, 16):
        side = 3 if len(values) == 9 else 4
        matrix = values.reshape(side, side)
        if (
            not np.isclose(matrix[2, 2], 1)
            or abs(matrix[1, 0]) + abs(matrix[2, 0]) + abs(matrix[2, 1]) > 1e-6
        ):
            raise UserError(f"{where}: its {len(values)} numbers are no camera matrix with last row 0 0 1")
        return IntrinsicsTable(matrix[[0, 1, 0, 1], [0, 1, 2, 2]][None])
    raise UserError(
        f"{where} holds {len(values)} numbers; give fx fy cx cy, f cx cy, fx fy cx cy width height, or a 3x3 matrix"
    )


def _of_rows(numbers: list[list[float]], names: list[str], path: Path) -> IntrinsicsTable:
    flat = [number for row in numbers for number in row]
    widths = {len(row) for row in numbers}
    if widths == {4} and len(numbers) > 1 and not (len(numbers) == 4 and numbers[3] == [0, 0, 0, 1]):
        return IntrinsicsTable(np.array(numbers), name=tuple(names) if all(names) else ())
    return intrinsics_of_numbers(flat, str(path))


def _of_projection(text: str, path: Path, row: str) -> IntrinsicsTable:
    try:
        numbers = np.array(text.split(), np.float64)
        matrix = numbers.reshape(3, 4 if len(numbers) == 12 else 3)
    except ValueError:
        raise UserError(f"{path}: its line '{row}:' holds no 3x4 or 3x3 matrix") from None
    values, offset = projection_parts(
        np.column_stack([matrix, np.zeros((3, 4 - matrix.shape[1]))]), path, row
    )
    return IntrinsicsTable(values[None], cam_from_rig=offset if offset.any() else None)


def projection_parts(projection: np.ndarray, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return fx fy cx cy [4] and t [3] of a projection matrix K [I | t] [3, 4].

    Raises UserError naming file and line when its numbers are no camera's.
    """
    k = projection[:, :3]
    if not np.isfinite(projection).all() or k[0, 0] <= 0 or k[1, 1] <= 0 or abs(np.linalg.det(k)) < 1e-9:
        numbers = " ".join(f"{number:g}" for number in projection.ravel())
        raise UserError(f"{path}: {name}: {numbers} is no camera; focal lengths are above 0")
    return k[[0, 1, 0, 1], [0, 1, 2, 2]], np.linalg.solve(k, projection[:, 3])


def _of_json(document: Any, path: Path) -> IntrinsicsTable:
    if not isinstance(document, dict):
        raise UserError(f"{path} must map names to numbers, such as fx, fy, cx, cy")
    size = [document.get(key, document.get(long)) for key, long in (("h", "height"), ("w", "width"))]
    if any(side is not None and not is_finite_number(side, above=0) for side in size):
        raise UserError(
            f"{path}: height and width are {size[0]!r} and {size[1]!r}; they must be numbers above 0"
        )
    size_hw = np.array(size, np.int64) if None not in size else None
    lens = sorted(set(document) & LENS_KEYS)
    if lens:
        note(f"{path}: {', '.join(lens)} are not read; give the lens with camera_model= and distortion=")
    for key in MATRIX_KEYS:
        if key in document:
            try:
                matrix = np.array(document[key], np.float64).ravel().tolist()
            except (TypeError, ValueError):
                raise UserError(f"{path}: '{key}' is no matrix of numbers") from None
            return IntrinsicsTable(intrinsics_of_numbers(matrix, f"{path} '{key}'").values, size_hw)
    found = [next((document[name] for name in names if name in document), None) for names in ALIASES.values()]
    wrong = next(
        (name for name, value in zip(ALIASES, found, strict=True) if not is_finite_number(value)), None
    )
    if wrong is not None:
        raise UserError(
            f"{path}: {wrong} is {json.dumps(found[list(ALIASES).index(wrong)])}; it must have numbers fx, fy, cx, "
            f"cy or K, its keys are {', '.join(sorted(document))[:80]}"
        )
    return IntrinsicsTable(np.array([found], np.float64), size_hw)


def _plausible(table: IntrinsicsTable, path: Path) -> IntrinsicsTable:
    values = table.values
    if not np.isfinite(values).all() or (values[:, :2] <= 0).any():
        place = int((~np.isfinite(values).all(1) | (values[:, :2] <= 0).any(1)).argmax())
        numbers = " ".join(f"{number:g}" for number in values[place])
        raise UserError(f"{path}: fx fy cx cy = {numbers} is no camera; focal lengths are above 0")
    return table
