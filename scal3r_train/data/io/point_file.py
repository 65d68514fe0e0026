"""Positions from PLY and PCD files of any layout, in blocks, so that a file of any size needs little memory.

What else a file holds (colour, confidence, normals, faces behind the points) is passed over. Shapes: N points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
PLY_FORMATS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
PCD_KINDS = {"F": "f", "I": "i", "U": "u"}
MAX_HEADER_BYTES = 1 << 16
BLOCK_POINTS = 1 << 18
COORDINATES = ("x", "y", "z")


@dataclass(frozen=True)
class _Table:
    """Where the points of a file are: the type of one row, how many, offset in bytes; is_text: rows of text."""

    row: np.dtype
    num: int
    offset: int
    is_text: bool


class PointFile:
    """A .ply (ascii, binary of either byte order) or .pcd (ascii, binary) file whose header has been read.

    Attributes:
        path: of the file.
        num_points: that its header announces.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            UserError: the file is missing or of another kind.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(MAX_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
            self._table = _ply_table(head) if head.startswith(b"ply") else _pcd_table(head)
            if self._table.num < 0:
                raise ValueError(f"it declares {self._table.num} points")
            missing = set(COORDINATES) - set(self._table.row.names or ())
            if missing:
                raise ValueError(f"its points have no {', '.join(sorted(missing))}")
            if not self._table.is_text:
                self._check_number((size - self._table.offset) // self._table.row.itemsize)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; name the point cloud") from None
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise self._unreadable(error) from None
        self.num_points = self._table.num

    def blocks(self, size: int = BLOCK_POINTS) -> Iterator[np.ndarray]:
        """Yield positions [at most `size`, 3] float64 in order, leaving out those that are not finite.

        Raises:
            UserError: the file is damaged or cut short.
        """
        num_read = 0
        read = self._text_blocks if self._table.is_text else self._binary_blocks
        try:
            for points in read(size):
                num_read += len(points)
                yield points[np.isfinite(points).all(axis=1)]
            self._check_number(num_read)
        except (OSError, ValueError, IndexError) as error:
            raise self._unreadable(error) from None

    def _binary_blocks(self, size: int) -> Iterator[np.ndarray]:
        row = self._table.row
        with self.path.open("rb") as file:
            file.seek(self._table.offset)
            for start in range(0, self.num_points, size):
                content = file.read(min(size, self.num_points - start) * row.itemsize)
                rows = np.frombuffer(content, row, len(content) // row.itemsize)
                yield np.stack([rows[name].astype(np.float64) for name in COORDINATES], axis=-1)

    def _text_blocks(self, size: int) -> Iterator[np.ndarray]:
        names, columns, place = self._table.row.names or (), {}, 0
        for name in names:
            columns[name] = place
            place += int(np.prod(self._table.row[name].shape, dtype=np.int64))
        with self.path.open("rb") as file:
            file.seek(self._table.offset)
            for start in range(0, self.num_points, size):
                lines = [line for line in islice(file, min(size, self.num_points - start)) if line.strip()]
                if not lines:
                    return
                yield np.loadtxt(lines, np.float64, usecols=[columns[name] for name in COORDINATES], ndmin=2)

    def _check_number(self, num_there: int) -> None:
        if num_there < self._table.num:
            raise ValueError(f"it holds {num_there} of {self._table.num} points; download it again")

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read as point cloud: {error}")


def _ply_table(head: bytes) -> _Table:
    """Vertices must come first, as they do in all files of points."""
    end = re.search(rb"^end_header[ \t]*\r?\n", head, re.MULTILINE)
    if end is None:
        raise ValueError("its header has no end")
    lines = [line.split() for line in head[: end.start()].decode("ascii", "replace").splitlines()]
    kind = next((line[1] for line in lines if line[:1] == ["format"]), "")
    if kind not in PLY_FORMATS:
        raise ValueError(f"its format is '{kind}'")
    start = next((place for place, line in enumerate(lines) if line[:1] == ["element"]), None)
    if start is None or lines[start][1] != "vertex":
        raise ValueError("its first element is no vertex")
    fields = []
    for line in lines[start + 1 :]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if line[1] == "list":
                raise ValueError("its vertices hold lists")
            fields.append((line[2], PLY_FORMATS[kind] + PLY_TYPES[line[1]]))
    return _Table(np.dtype(fields), int(lines[start][2]), end.end(), kind == "ascii")


def _pcd_table(head: bytes) -> _Table:
    data = re.search(rb"^DATA (\w+)\r?\n", head, re.MULTILINE)
    if data is None:
        raise ValueError("neither a PLY nor a PCD file")
    kind = data[1].decode()
    if kind not in ("ascii", "binary"):
        raise ValueError(f"DATA {kind} is not supported; save it as binary PCD or PLY")
    lines = dict(
        line.split(" ", 1) for line in head[: data.start()].decode("ascii").splitlines() if " " in line
    )
    names, sizes, types = (lines[key].split() for key in ("FIELDS", "SIZE", "TYPE"))
    counts = lines.get("COUNT", " ".join("1" for _ in names)).split()
    row = np.dtype(
        [
            # padding is called _ and may be there more than once
            (
                name if name != "_" else f"_{place}",
                f"<{PCD_KINDS[kind]}{size}",
                (int(count),) if count != "1" else (),
            )
            for place, (name, size, kind, count) in enumerate(zip(names, sizes, types, counts, strict=True))
        ]
    )
    return _Table(row, int(lines["POINTS"]), data.end(), kind == "ascii")
