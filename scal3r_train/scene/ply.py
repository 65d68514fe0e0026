"""Coloured point clouds as binary little-endian PLY files, whole or in blocks that need little memory.

Shapes: N points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from scal3r_train.config import UserError, atomic_output

VERTEX = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("confidence", "<f4"),
    ]
)
AXES, CHANNELS = ("x", "y", "z"), ("red", "green", "blue")
MAX_HEADER_BYTES = 4096
NUM_DIGITS = 19  # of the largest count that a header has room for
BLOCK_POINTS = 1 << 18


def write_ply(path: Path, positions: np.ndarray, colours: np.ndarray, confidence: np.ndarray) -> None:
    """Write points [N, 3] (stored as float32), RGB colours [N, 3] uint8 and confidences [N], atomically."""
    with ply_writer(path) as writer:
        for start in range(0, len(positions), BLOCK_POINTS):
            part = slice(start, start + BLOCK_POINTS)
            writer.append(as_vertices(positions[part], colours[part], confidence[part]))


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions [N, 3] float32, colours [N, 3] uint8 and confidences [N] float32 that `write_ply` wrote.

    Raises:
        UserError: the file is missing, has another layout or is cut short.
    """
    with PlyReader(path) as reader:
        return reader.read()


def as_vertices(positions: np.ndarray, colours: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return points [N, 3], colours [N, 3] uint8 and confidences [N] as [N] vertices of a file."""
    assert positions.shape == colours.shape == (len(positions), 3)
    assert colours.dtype == np.uint8
    vertices = np.empty(len(positions), VERTEX)
    for axis, name in enumerate(AXES):
        vertices[name] = positions[:, axis]
    for channel, name in enumerate(CHANNELS):
        vertices[name] = colours[:, channel]
    vertices["confidence"] = confidence
    return vertices


def positions_of(vertices: np.ndarray) -> np.ndarray:
    """Return the positions [N, 3] float32 of vertices."""
    return np.stack([vertices[name] for name in AXES], axis=-1)


def colours_of(vertices: np.ndarray) -> np.ndarray:
    """Return the RGB colours [N, 3] uint8 of vertices."""
    return np.stack([vertices[name] for name in CHANNELS], axis=-1)


class PlyReader:
    """An open point cloud, whose points are read in blocks. The file that was opened is read, whatever replaces it.

    Attributes:
        path: of the file.
        num_points: that it holds.
    """

    def __init__(self, path: Path) -> None:
        """Open a file and check its header and size.

        Raises:
            UserError: the file is missing, has another layout or is cut short.
        """
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            self._start, self.num_points = _parse_header(self._file.read(MAX_HEADER_BYTES))
            size = os.fstat(self._file.fileno()).st_size
        except ValueError:
            size = -1
        except OSError as error:
            self._file.close()
            raise self._unreadable(error) from None
        if size < 0 or size != self._start + self.num_points * VERTEX.itemsize:
            self._file.close()
            raise self._damaged()

    def blocks(self, size: int = BLOCK_POINTS) -> Iterator[np.ndarray]:
        """Yield the points in order, [size] of `VERTEX`, read-only; the last block may be smaller.

        Raises:
            UserError: the file has become shorter.
        """
        for start in range(0, self.num_points, size):
            num_bytes = min(size, self.num_points - start) * VERTEX.itemsize
            try:
                self._file.seek(self._start + start * VERTEX.itemsize)
                content = self._file.read(num_bytes)
            except OSError as error:
                raise self._unreadable(error) from None
            if len(content) != num_bytes:
                raise self._damaged()
            yield np.frombuffer(content, VERTEX)

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all positions [N, 3] float32, colours [N, 3] uint8 and confidences [N] float32."""
        positions = np.empty((self.num_points, 3), np.float32)
        colours = np.empty((self.num_points, 3), np.uint8)
        confidence = np.empty(self.num_points, np.float32)
        stop = 0
        for vertices in self.blocks():
            start, stop = stop, stop + len(vertices)
            positions[start:stop], colours[start:stop] = positions_of(vertices), colours_of(vertices)
            confidence[start:stop] = vertices["confidence"]
        return positions, colours, confidence

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> PlyReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"point cloud {self.path} cannot be read: {error.strerror}; check the path")

    def _damaged(self) -> UserError:
        return UserError(f"point cloud {self.path} is damaged or of another layout; write it again")


class PlyWriter:
    """Writes a point cloud block by block into an open file; `finish` puts the number of points into the header.

    Attributes:
        num_points: that have been written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.num_points = 0
        self._file = file
        file.write(_header(0))

    def append(self, vertices: np.ndarray) -> None:
        """Write points, [N] of `VERTEX`. Raises OSError as the file does."""
        assert vertices.dtype == VERTEX
        # Not ndarray.tofile, whose errors do not say that the disk is full.
        self._file.write(np.ascontiguousarray(vertices).view(np.uint8).data)
        self.num_points += len(vertices)

    def finish(self) -> None:
        """Correct the header."""
        self._file.seek(0)
        self._file.write(_header(self.num_points))


@contextmanager
def ply_writer(path: Path) -> Iterator[PlyWriter]:
    """Give a writer of `path`, which appears when all points are written, and does not after an error."""
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        writer = PlyWriter(file)
        yield writer
        writer.finish()


def _header(num_points: int) -> bytes:
    """Return the header of a cloud of `num_points` vertices, equally long for every number."""
    names = {"<f4": "float", "|u1": "uchar"}
    properties = [f"property {names[VERTEX[name].str]} {name}" for name in VERTEX.names or ()]
    room = "comment scal3r " + "." * (NUM_DIGITS - len(str(num_points)))
    opening = ["ply", "format binary_little_endian 1.0", room, f"element vertex {num_points}"]
    return ("\n".join([*opening, *properties, "end_header"]) + "\n").encode("ascii")


def _parse_header(content: bytes) -> tuple[int, int]:
    """Return the length of a header and the number of points, whatever its comments; ValueError when it is no other."""
    length = content.index(b"end_header\n") + len(b"end_header\n")
    given, ours = (
        [line for line in text.decode("ascii").split("\n") if not line.startswith(("comment", "obj_info"))]
        for text in (content[:length], _header(0))
    )
    count = given[2].removeprefix("element vertex ") if len(given) > 2 else ""
    if not count.isdecimal() or [*given[:2], ours[2], *given[3:]] != ours:
        raise ValueError("another layout")
    return length, int(count)
