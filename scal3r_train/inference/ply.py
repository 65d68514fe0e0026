"""Coloured point clouds as binary little-endian PLY files.

Shapes: N points.
"""

from __future__ import annotations

from pathlib import Path

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
MAX_HEADER_BYTES = 4096


def write_ply(path: Path, positions: np.ndarray, colours: np.ndarray, confidence: np.ndarray) -> None:
    """Write points [N, 3] (stored as float32), RGB colours [N, 3] uint8 and confidences [N], atomically."""
    assert positions.shape == colours.shape == (len(positions), 3)
    assert colours.dtype == np.uint8
    vertices = np.empty(len(positions), VERTEX)
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = positions[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, channel]
    vertices["confidence"] = confidence
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        file.write(_header(len(vertices)).encode("ascii"))
        file.write(vertices.tobytes())


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions [N, 3] float32, colours [N, 3] uint8 and confidences [N] float32 that `write_ply` wrote.

    Raises:
        UserError: the file is missing, has another layout or is cut short.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"point cloud {path} cannot be read: {error.strerror}; check the path") from None
    end = content.find(b"end_header\n", 0, MAX_HEADER_BYTES) + len(b"end_header\n")
    body = len(content) - end
    num_points, remainder = divmod(body, VERTEX.itemsize)
    if remainder or content[:end] != _header(num_points).encode("ascii"):
        raise UserError(f"point cloud {path} is damaged or of another layout; write it again")
    vertices = np.frombuffer(content, VERTEX, num_points, end)
    positions = np.stack([vertices[name] for name in ("x", "y", "z")], axis=-1)
    colours = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=-1)
    return positions, colours, vertices["confidence"].copy()


def _header(num_points: int) -> str:
    """Return the header of a cloud of `num_points` vertices."""
    names = {"<f4": "float", "|u1": "uchar"}
    properties = [f"property {names[VERTEX[name].str]} {name}" for name in VERTEX.names or ()]
    opening = ["ply", "format binary_little_endian 1.0", f"element vertex {num_points}"]
    return "\n".join([*opening, *properties, "end_header"]) + "\n"
