"""Meshes of SuperTuxKart (.spm, version 1), after the published description of the format.

Little endian. "SP", a byte of version and kind, a byte that says whether vertices have normals, colours and tangents, a
box, a table of pairs of textures, then sectors of buffers: vertices one after the other, of a size that depends on what
they have (white takes one byte), and triangles. Shapes: V vertices, T triangles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.text_file import read_file_bytes

BOX_BYTES = 24
POSITION_BYTES = 12
SECTORED, SKINNED = 0, 1  # kinds of mesh
WHITE = 128


@dataclass(frozen=True)
class Buffer:
    """Triangles of one texture: positions, normals and colours (0..1) [V, 3], coordinates [V, 2] (v = 0 is the top),
    faces [T, 3] int64, the name of the texture ("": none).
    """

    positions: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    coordinates: np.ndarray
    faces: np.ndarray
    texture: str


def read_spm(path: Path) -> list[Buffer]:
    """Return what a mesh consists of. Raises UserError for what is none or is damaged."""
    try:
        return _Reader(read_file_bytes(path)).buffers()
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"mesh {path} cannot be read: {error}") from None


class _Reader:
    """The bytes of a mesh, and how far they have been read."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def buffers(self) -> list[Buffer]:
        if self._data[:2] != b"SP" or self._data[2] >> 3 != 1:
            raise ValueError("no SPM file of version 1")
        self._kind, flags = self._data[2] & 7, self._data[3]
        self._has_normals, self._has_colours, self._has_tangents = (
            bool(flags >> bit & 1) for bit in range(3)
        )
        self._at = 4 + BOX_BYTES
        (num_materials,) = self._read("<H")
        textures = [(self._name(), self._name()) for _ in range(num_materials)]
        (num_sectors,) = self._read("<H")
        found = []
        for _ in range(num_sectors):
            self._at += BOX_BYTES if self._kind == SECTORED else 0
            (num_buffers,) = self._read("<H")
            found += [self._buffer(textures) for _ in range(num_buffers)]
        return found

    def _buffer(self, textures: list[tuple[str, str]]) -> Buffer:
        num_vertices, num_indices, material = self._read("<IIH")
        if num_vertices * POSITION_BYTES > len(self._data) - self._at:
            raise ValueError(f"it declares {num_vertices} vertices")
        pair = textures[material] if material < len(textures) else ("", "")
        positions, normals = np.zeros((2, num_vertices, 3), np.float32)
        colours, coordinates = (
            np.ones((num_vertices, 3), np.float32),
            np.zeros((num_vertices, 2), np.float32),
        )
        for i in range(num_vertices):
            positions[i] = self._read("<3f")
            if self._has_normals:
                normals[i] = _unpacked(*self._read("<I"))
            if self._has_colours and self._read("<B")[0] != WHITE:
                colours[i] = self._read("<3B")
                colours[i] /= 255
            if pair[0]:
                coordinates[i] = self._read("<2e")
                self._at += (4 if pair[1] else 0) + (4 if self._has_tangents else 0)
            self._at += 16 if self._kind == SKINNED else 0
        kind = "<u4" if num_vertices > 65535 else "<u2" if num_vertices > 255 else "u1"
        faces = np.frombuffer(self._data, kind, num_indices, self._at).reshape(-1, 3).astype(np.int64)
        self._at += num_indices * np.dtype(kind).itemsize
        if faces.size and faces.max() >= num_vertices:
            raise ValueError("a triangle names a vertex that is not there")
        return Buffer(positions, normals, colours, coordinates, faces, pair[0])

    def _read(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _name(self) -> str:
        length = self._data[self._at]
        name = self._data[self._at + 1 : self._at + 1 + length].decode("utf-8", "replace")
        self._at += 1 + length
        return name


def _unpacked(word: int) -> list[float]:
    """Three signed numbers of ten bits each."""
    parts = [word >> shift & 1023 for shift in (0, 10, 20)]
    return [(part - 1024 if part > 511 else part) / 511 for part in parts]
