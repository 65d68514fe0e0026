"""Point clouds in PLY and PCD files, and large ones in pieces that can be skipped as a whole.

Shapes: P points.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError, atomic_output

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
MAX_HEADER_BYTES = 1 << 16
CELL_M = 8.0
PIECE_POINTS = 1 << 17
COORDINATES = ("x", "y", "z")


@dataclass(frozen=True)
class _Table:
    """Where the points of a file are: the type of one row, how many, offset in bytes; is_text: rows of text."""

    row: np.dtype
    num: int
    offset: int
    is_text: bool


def read_points(path: Path) -> np.ndarray:
    """Positions [P, 3] float32 of a .ply (ascii, binary) or .pcd (ascii, binary) file; not finite ones are left out.

    Raises UserError naming the file when it is missing, damaged or of another kind.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
        table = _ply_table(head) if head.startswith(b"ply") else _pcd_table(head)
        if table.is_text:
            columns = [table.row.names.index(name) for name in COORDINATES] if table.row.names else []
            with path.open("rb") as file:
                file.seek(table.offset)
                points = np.loadtxt(file, np.float32, usecols=columns, max_rows=table.num, ndmin=2)
        else:
            rows = np.memmap(path, table.row, "r", table.offset, (table.num,))
            points = np.stack([rows[name].astype(np.float32) for name in COORDINATES], -1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the point cloud") from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path} cannot be read as point cloud: {error}") from None
    if len(points) != table.num:
        raise UserError(f"{path} holds {len(points)} of {table.num} points; download it again")
    return points[np.isfinite(points).all(1)]


def _ply_table(head: bytes) -> _Table:
    """Vertices must come first, as they do in all files of points."""
    text, separator, _ = head.partition(b"end_header\n")
    if not separator:
        raise ValueError("no end_header; is it a PLY file with Unix line ends?")
    lines = [line.split() for line in text.decode("ascii", "replace").splitlines()]
    kind = next(line[1] for line in lines if line[:1] == ["format"])
    start = next(place for place, line in enumerate(lines) if line[:1] == ["element"])
    if lines[start][1] != "vertex":
        raise ValueError("its first element is no vertex")
    order = ">" if kind == "binary_big_endian" else "<"
    fields = []
    for line in lines[start + 1 :]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if line[1] == "list":
                raise ValueError("its vertices hold lists")
            fields.append((line[2], order + PLY_TYPES[line[1]]))
    return _Table(np.dtype(fields), int(lines[start][2]), len(text) + len(separator), kind == "ascii")


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
    kinds = {"F": "f", "I": "i", "U": "u"}
    row = np.dtype(
        [
            # padding is called _ and may be there more than once
            (
                name if name != "_" else f"_{place}",
                f"<{kinds[kind]}{size}",
                (int(count),) if count != "1" else (),
            )
            for place, (name, size, kind, count) in enumerate(zip(names, sizes, types, counts, strict=True))
        ]
    )
    return _Table(row, int(lines["POINTS"]), data.end(), kind == "ascii")


@dataclass(frozen=True)
class PiecewiseCloud:
    """Points in pieces that lie together, so that those far from a camera are not looked at.

    Attributes:
        points: [P, 3] float32, memory-mapped when read from a file.
        start: [C + 1] where each piece begins in points.
        centre: [C, 3]; radius: [C] of a ball around each piece.
    """

    points: np.ndarray
    start: np.ndarray
    centre: np.ndarray
    radius: np.ndarray

    def near(self, position: np.ndarray, forward: np.ndarray, max_distance: float) -> list[np.ndarray]:
        """Pieces with points at most max_distance away and possibly in front of a camera; unit vector forward [3]."""
        offset = self.centre - position
        in_reach = np.linalg.norm(offset, axis=1) - self.radius <= max_distance
        in_front = offset @ forward + self.radius > 0
        pieces = np.flatnonzero(in_reach & in_front)
        return [self.points[self.start[piece] : self.start[piece + 1]] for piece in pieces]


def write_piecewise(path: Path, points: np.ndarray) -> None:
    """Write points [P, 3] sorted into cubes as .npy, for `read_piecewise`."""
    cell = np.floor((points - points.min(0)) / CELL_M).astype(np.int64)
    size = cell.max(0) + 1
    order = np.argsort((cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2], kind="stable")
    with atomic_output(path) as temporary:
        np.save(temporary, points[order])


def read_piecewise(path: Path) -> PiecewiseCloud:
    """Open what `write_piecewise` wrote, without reading the points into memory at once."""
    points = np.load(path, mmap_mode="r", allow_pickle=False)
    start = np.unique([*range(0, len(points), PIECE_POINTS), len(points)])
    pieces = [points[a:b] for a, b in zip(start[:-1], start[1:], strict=True)]
    centre = np.array([(piece.min(0) + piece.max(0)) / 2 for piece in pieces])
    radius = np.array(
        [np.linalg.norm(piece - middle, axis=1).max() for piece, middle in zip(pieces, centre, strict=True)]
    )
    return PiecewiseCloud(points, start, centre, radius)
