"""Poses of images in JSON, in the forms that people write.

{NAME: matrix}, [matrix, ..] or [{..a name.., ..a matrix..}, ..], also under a key such as "poses"; matrices nested or
flat, or R and t apart; `null` where a pose is not known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_data_tools.formats.json_files import is_finite_number
from scal3r_data_tools.formats.pose_table import PoseTable, matrices
from scal3r_train.config import UserError
from scal3r_train.data.io.left_out import note_once

WORD_KEYS = ("pose", "matrix", "transform", "transform_matrix", "T", "c2w", "w2c", "extrinsics", "extrinsic")
LIST_KEYS = ("poses", "cameras", "trajectory", "extrinsics", "images")
NAME_KEYS = (
    "name",
    "file",
    "file_name",
    "filename",
    "file_path",
    "image",
    "img",
    "image_name",
    "img_name",
    "path",
)
CAMERA_KEYS = (
    "R",
    "rotation",
    "t",
    "translation",
    "position",
    "fx",
    "fy",
    "cx",
    "cy",
    "width",
    "height",
    "id",
)
READ_KEYS = {*WORD_KEYS, *NAME_KEYS, *CAMERA_KEYS}


def poses_of_json(document: Any, path: Path) -> PoseTable:
    """Return the poses of the content of a JSON file. Raises UserError naming the file when it is something else."""
    if isinstance(document, dict) and "frames" in document:
        raise UserError(f"{path} is a transforms.json; index it with `scal3r data index nerfstudio`")
    names: list[str] = []
    cameras: list[dict[str, Any]] = []
    inner = [document[key] for key in LIST_KEYS if isinstance(document, dict) and key in document]
    if inner:  # {"poses": [..], ..}
        return poses_of_json(inner[0], path)
    if isinstance(document, dict):
        names, found = list(document), list(document.values())
        cameras = [value for value in found if isinstance(value, dict)]
        found = [_pose_of(value, path) if isinstance(value, dict) else value for value in found]
    elif isinstance(document, list) and all(isinstance(one, dict) for one in document):
        names = [_first_of(one, NAME_KEYS, path) for one in document]
        found = [_pose_of(one, path) for one in document]
        cameras = document
    elif isinstance(document, list):
        found = document
    else:
        raise UserError(f"{path} must be a list of poses or map image names to poses")
    poses = []
    for place, matrix in enumerate(found):
        try:
            numbers = np.full(12, np.nan) if matrix is None else np.array(matrix, np.float64).ravel()
        except (TypeError, ValueError):
            numbers = np.zeros(0)
        if len(numbers) not in (12, 16):
            where = names[place] if names else place
            raise UserError(f"{path}: the pose of {where} is no 3x4 or 4x4 matrix")
        poses.append(matrices(numbers[None], path)[0])
    if not poses:
        raise UserError(f"{path} holds no pose")
    intrinsics, size_hw = _cameras_of(cameras, path) if len(cameras) == len(poses) else (None, None)
    return PoseTable(
        np.stack(poses), "JSON", name=tuple(map(str, names)), intrinsics=intrinsics, size_hw=size_hw
    )


def _cameras_of(entries: Sequence[dict[str, Any]], path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Fx fy cx cy [P, 4] where every entry has them, as 3D Gaussian Splatting's cameras.json does, and their size [2].

    Keys that are not read are named once.
    """
    unknown = sorted({key for entry in entries for key in entry} - READ_KEYS)
    if unknown:
        note_once(("keys", *unknown), f"{path}: not read: {', '.join(unknown[:8])}")
    if not all("fx" in entry and "fy" in entry for entry in entries):
        return None, None
    rows = []
    for entry in entries:
        width, height = entry.get("width"), entry.get("height")
        centre = [entry.get("cx", _half(width)), entry.get("cy", _half(height))]
        row = [entry["fx"], entry["fy"], *centre]
        if not all(is_finite_number(number) for number in row) or min(row[:2]) <= 0:
            raise UserError(
                f"{path}: fx fy cx cy of an entry are {json.dumps(row)}; focal lengths are above 0"
            )
        rows.append([*row, width, height])
    sizes = {(row[5], row[4]) for row in rows}
    size = next(iter(sizes))
    is_known = len(sizes) == 1 and all(is_finite_number(side, above=0) for side in size)
    return np.array([row[:4] for row in rows], np.float64), np.array(size, np.int64) if is_known else None


def _half(side: Any) -> Any:
    return side / 2 if is_finite_number(side, above=0) else None


def _pose_of(entry: dict[str, Any], path: Path) -> Any:
    """A pose of an entry: a matrix, or R and t apart."""
    translation = next((entry[key] for key in ("t", "translation", "position") if key in entry), None)
    turn = next((entry[key] for key in ("R", "rotation") if key in entry), None)
    if turn is not None and translation is not None:
        try:
            rotation = np.array(turn, np.float64).reshape(3, 3)
            return np.column_stack([rotation, np.array(translation, np.float64).reshape(3)]).tolist()
        except (TypeError, ValueError):
            raise UserError(f"{path}: R and t of an entry are no 3x3 matrix and 3 numbers") from None
    return _first_of(entry, WORD_KEYS, path)


def _first_of(entry: dict[str, Any], keys: Sequence[str], path: Path) -> Any:
    for key in keys:
        if key in entry:
            return entry[key]
    raise UserError(
        f"{path}: an entry has the keys {', '.join(sorted(entry))[:80]}; none of {', '.join(keys)}"
    )
