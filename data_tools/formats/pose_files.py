"""Poses of images in whatever file somebody wrote them into: one table a trajectory, or one file an image.

What a file is, is told by its numbers:
    a line a pose       12 numbers: 3x4 row by row (KITTI). 16: 4x4. 7: position, quaternion x y z w. 8: a time before
                        that (TUM). 13 and 17: a time before the matrix. A name in front of any of them names the image.
                        Blanks, commas or semicolons between; `#` starts a comment; a line of words may head it.
    EuRoC               a header line with [ns]: time in nanoseconds, position, quaternion w x y z, whatever follows.
    HoloLens            pv.txt: a line cx, cy, width, height, then time, fx, fy, 4x4 a line.
    blocks              3x4 or 4x4 matrices below one another, 4 numbers a line.
    JSON                {NAME: matrix}, [matrix, ..], or [{..a name.., ..a matrix..}, ..]; matrices nested or flat.
    a file an image     12 or 16 numbers; Strecha's NAME.camera: K, three zeros, rotation, position, size.
Nothing here decides which direction or which axes the numbers mean; the shapes alone are settled.
Shapes: P poses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.json_files import read_json
from scal3r_data_tools.formats.pose_json import poses_of_json
from scal3r_data_tools.formats.pose_table import PoseTable, checked, matrices
from scal3r_data_tools.formats.poses import pose_from_wxyz, pose_from_xyzw
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import named_text
from scal3r_train.config import UserError
from scal3r_train.data.io.numpy_files import read_npy
from scal3r_train.text_file import SEPARATOR, as_number, is_number

NANOSECOND = 1e-9
MAX_POSE_BYTES = 1 << 16  # of a file of one pose
NANOSECONDS_FROM = 1e13  # seconds since 1970 have ten digits


@names_file("path")
def read_pose_table(path: Path) -> PoseTable:
    """Return the poses of one file.

    Raises:
        UserError: it is missing, or what its lines hold is none of the known forms; the message quotes the line.
    """
    if path.suffix.lower() == ".json":
        return checked(poses_of_json(read_json(path), path), path)
    rows = _rows(path)
    header = next((row for row in rows if _is_euroc_header(row)), None)
    if header is not None:
        return checked(_euroc(_body(rows, path), header, path), path)
    body = _body(rows, path)
    widths = [len(row) for row in body]
    if widths[0] == 4 and set(widths[1:]) == {19}:
        return checked(_hololens(body, path), path)
    if set(widths) == {4} and _all_numbers(body):
        return checked(_blocks(_numbers(body, path), path), path)
    return checked(_lines(body, path), path)


@names_file("path")
def read_pose_file(path: Path) -> PoseTable:
    """Return the one pose of an image's own file: 12 or 16 numbers, or Strecha's camera file.

    Raises:
        UserError: it is missing or holds something else.
    """
    if path.suffix.lower() == ".npy":
        try:
            numbers = read_npy(path, MAX_POSE_BYTES).astype(np.float64).ravel()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
    else:
        numbers = np.concatenate([_numbers([row], path)[0] for row in _body(_rows(path), path)])
    if path.suffix.lower() == ".camera" and len(numbers) == 26:
        k, rotation, position = numbers[:9].reshape(3, 3), numbers[12:21].reshape(3, 3), numbers[21:24]
        return checked(
            PoseTable(
                np.concatenate([rotation, position[:, None]], 1)[None],
                "a camera file each, as Strecha's",
                intrinsics=k[[0, 1, 0, 1], [0, 1, 2, 2]][None],
                size_hw=numbers[[25, 24]].astype(np.int64),
            ),
            path,
        )
    if len(numbers) not in (12, 16):
        raise UserError(f"{path} holds {len(numbers)} numbers; a pose is 12 (3x4) or 16 (4x4)")
    return checked(PoseTable(matrices(numbers[None], path), "a matrix in a file each"), path)


def _rows(path: Path) -> list[list[str]]:
    """Words of every line that has some."""
    text = named_text(path, "name the file of poses with poses=FILE")
    rows = []
    for line in text.splitlines():
        is_header = _is_euroc_header(SEPARATOR.split(line))
        words = SEPARATOR.split((line if is_header else line.partition("#")[0]).strip())
        if words != [""]:
            rows.append([word for word in words if word])
    return rows


def _body(rows: Sequence[list[str]], path: Path) -> list[list[str]]:
    """The lines below a heading of words."""
    start = next((place for place, row in enumerate(rows) if any(map(is_number, row))), len(rows))
    if start == 1 or (start and _is_euroc_header(rows[0])):
        rows = rows[start:]
    rows = [row for row in rows if not _is_euroc_header(row)]
    if not rows:
        raise UserError(f"{path} holds no numbers; is it the file of poses?")
    return list(rows)


def _is_euroc_header(words: Sequence[str]) -> bool:
    """`#timestamp [ns], p_RS_R_x [m], .., q_RS_w [], ..`, or without units."""
    first = words[0].lstrip("#").lower() if words else ""
    return first.startswith("timestamp") and any(re.fullmatch(r"q\w*_w", word.strip('"')) for word in words)


def _all_numbers(rows: Sequence[list[str]]) -> bool:
    return all(is_number(word) for row in rows for word in row)


def _numbers(rows: Sequence[list[str]], path: Path) -> np.ndarray:
    try:
        return np.array([[as_number(word) for word in row] for row in rows], np.float64)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _lines(rows: list[list[str]], path: Path) -> PoseTable:
    """A pose a line; a word that is no number in front names the image, also one with blanks in it."""
    has_name = not all(is_number(row[0]) for row in rows)
    names: tuple[str, ...] = ()
    if has_name:
        width = len(_trailing_numbers(rows[0]))
        width = next((known for known in (16, 12, 7) if width >= known), width)
        names = tuple(" ".join(row[: len(row) - width]) for row in rows)
        rows = [row[len(row) - width :] for row in rows]
        nameless = next((place for place, name in enumerate(names) if not name), None)
        if nameless is not None:
            raise UserError(f"{path}: line of {' '.join(rows[nameless])[:60]!r} names no image, others do")
    width = len(rows[0])
    odd = next((row for row in rows if len(row) != width), None)
    if odd is not None:
        raise UserError(f"{path}: '{' '.join(odd)[:60]}' has {len(odd)} numbers, the first line has {width}")
    numbers = _numbers(rows, path)
    time = numbers[:, 0] if width in (8, 13, 17) else None
    label = () if time is None else tuple(row[0] for row in rows)
    values = numbers if time is None else numbers[:, 1:]
    named = "names, " if has_name else "times, " if time is not None else ""
    if values.shape[1] == 7:
        norm = np.linalg.norm(values[:, 3:], axis=1)
        usable = np.isfinite(values).all(1) & (norm > 0.5)
        pose = np.full((len(values), 3, 4), np.nan)
        if usable.any():
            pose[usable] = pose_from_xyzw(values[usable, 3:], values[usable, :3])
        return PoseTable(pose, f"a line a pose: {named}position, quaternion x y z w", time, names, label)
    if values.shape[1] in (12, 16):
        size = "3x4" if values.shape[1] == 12 else "4x4"
        return PoseTable(
            matrices(values, path), f"a line a pose: {named}{size} row by row", time, names, label
        )
    raise UserError(
        f"{path}: '{' '.join(rows[0])[:60]}' has {width} numbers; a pose is 12 (3x4), 16 (4x4), 7 (position and "
        "quaternion x y z w), or 8, 13, 17 with a time in front"
    )


def _trailing_numbers(row: Sequence[str]) -> list[str]:
    place = len(row)
    while place and is_number(row[place - 1]):
        place -= 1
    return list(row[place:])


def _blocks(numbers: np.ndarray, path: Path) -> PoseTable:
    is_last = np.isclose(numbers, [0.0, 0, 0, 1], atol=1e-6).all(1)
    if len(numbers) % 4 == 0 and is_last[3::4].all():
        return PoseTable(numbers.reshape(-1, 4, 4)[:, :3], "4x4 matrices below one another")
    if len(numbers) % 3 == 0 and not is_last.any():
        return PoseTable(numbers.reshape(-1, 3, 4), "3x4 matrices below one another")
    raise UserError(f"{path}: {len(numbers)} lines of 4 numbers are no 3x4 or 4x4 matrices below one another")


def _euroc(rows: list[list[str]], header: list[str], path: Path) -> PoseTable:
    short = next((row for row in rows if len(row) < 8), None)
    if short is not None:
        raise UserError(
            f"{path}: '{' '.join(short)[:60]}' has {len(short)} columns; EuRoC's files have at least 8"
        )
    numbers = _numbers([row[:8] for row in rows], path)
    # as integers: seconds since 1970 in nanoseconds are beyond what a float holds to the nanosecond
    is_in_seconds = "ns" not in " ".join(header) and np.nanmax(np.abs(numbers[:, 0])) < NANOSECONDS_FROM
    exact = [int(row[0]) if re.fullmatch("[0-9]+", row[0]) else int(as_number(row[0])) for row in rows]
    time = numbers[:, 0] if is_in_seconds else np.array(exact, np.int64) * NANOSECOND
    order = [
        found[1] for word in header if (found := re.fullmatch(r"q\w*_([wxyz])", word.strip('"').lower()))
    ]
    columns = [order.index(axis) for axis in "wxyz"] if sorted(order) == list("wxyz") else [0, 1, 2, 3]
    norm = np.linalg.norm(numbers[:, 4:], axis=1)
    usable = np.isfinite(numbers).all(1) & (norm > 0.5)
    pose = np.full((len(numbers), 3, 4), np.nan)
    if usable.any():
        pose[usable] = pose_from_wxyz(numbers[usable, 4:][:, columns], numbers[usable, 1:4])
    unit = "seconds" if is_in_seconds else "nanoseconds"
    form = f"EuRoC: {unit}, position, quaternion {' '.join(order) if sorted(order) == list('wxyz') else 'w x y z'}"
    return PoseTable(pose, form, time)


def _hololens(rows: list[list[str]], path: Path) -> PoseTable:
    centre = _numbers(rows[:1], path)[0]
    numbers = _numbers(rows[1:], path)
    num = len(numbers)
    return PoseTable(
        matrices(numbers[:, 3:], path),
        "HoloLens: time, fx, fy, 4x4, OpenGL camera axes",
        numbers[:, 0],
        intrinsics=np.concatenate([numbers[:, 1:3], np.tile(centre[:2], (num, 1))], 1),
        size_hw=centre[[3, 2]].astype(np.int64),
        is_opengl=True,
    )
