"""AC3D meshes (.ac), after the published description of the format, and the dialect of TORCS (.acc).

The dialect adds to the format: `texture NAME base|tiled|skids|shad`, vertices with normals, triangle strips (type 4),
and a pair of texture coordinates for each texture that a mesh has. A mesh's base texture takes the first pair, the
tiled one (a shadow map of the whole circuit) the second. Lengths in metres, y up. Shapes: V vertices, T triangles.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError

POLYGON, STRIP = 0, 4
LINES = (1, 2)
NO_TEXTURE = "empty_texture_no_mapping"
MOVED = ("loc", "rot", "texrep", "texoff")


@dataclass(frozen=True)
class Mesh:
    """One object: vertices [V, 3], normals [V, 3] or None, faces [T, 3] int64 into them, texture and shadow
    coordinates [T, 3, 2] (v = 0 is the bottom), names of both textures ("": none), colour [3] in 0..1.
    """

    name: str
    vertices: np.ndarray
    normals: np.ndarray | None
    faces: np.ndarray
    texture_coordinates: np.ndarray
    shadow_coordinates: np.ndarray | None
    texture: str
    shadow: str
    colour: np.ndarray


@dataclass
class _Object:
    """An object while it is read."""

    name: str = ""
    textures: dict[str, str] = field(default_factory=dict)
    vertices: np.ndarray | None = None
    normals: np.ndarray | None = None
    faces: list[np.ndarray] = field(default_factory=list)
    coordinates: list[np.ndarray] = field(default_factory=list)
    material: int = 0
    surface: int = POLYGON


def read_ac3d(path: Path) -> list[Mesh]:
    """Return the objects with surfaces, in order. Raises UserError for what is no such mesh or is damaged."""
    try:
        lines = iter(path.read_text(encoding="latin-1").splitlines())
        if not next(lines, "").startswith("AC3D"):
            raise ValueError("it does not begin with AC3D")
        return list(_meshes(lines))
    except (OSError, ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise UserError(f"mesh {path} cannot be read: {error or 'it ends too early'}") from None


def _meshes(lines: Iterator[str]) -> Iterator[Mesh]:
    colours: list[np.ndarray] = []
    current = _Object()
    for line in lines:
        key, _, rest = line.strip().partition(" ")
        if key == "MATERIAL":
            words = rest.rpartition('"')[2].split()
            colours.append(np.array([float(word) for word in words[1:4]], np.float32))
        elif key == "OBJECT":
            current = _Object()
        elif key == "kids":
            if current.faces:
                yield _finished(current, colours)
            current = _Object()
        elif key in MOVED:
            raise ValueError(f"'{key}' is not supported; no circuit has it")
        else:
            _read_into(current, key, rest, lines)


def _read_into(current: _Object, key: str, rest: str, lines: Iterator[str]) -> None:
    """Read one line of an object, with the lines that belong to it."""
    if key == "name":
        current.name = rest.strip().strip('"')
    elif key == "texture":
        name, *kind = shlex.split(rest)
        if name != NO_TEXTURE:
            current.textures[kind[0] if kind else "base"] = name
    elif key == "numvert":
        current.vertices, current.normals = _vertices(_table(lines, int(rest)))
    elif key == "SURF":
        current.surface = int(rest, 16) & 15
    elif key == "mat":
        current.material = int(rest)
    elif key == "refs":
        _add_surface(current, _table(lines, int(rest)))


def _table(lines: Iterator[str], num_rows: int) -> np.ndarray:
    """Numbers of the next lines, [num_rows, n]. Raises ValueError when they are not equally long."""
    rows = [next(lines).split() for _ in range(num_rows)]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    return np.array(rows, np.float64).reshape(num_rows, -1)


def _vertices(table: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    has_normals = table.shape[1] >= 6 and bool(table[:, 3:6].any())
    return table[:, :3], table[:, 3:6] if has_normals else None


def _add_surface(current: _Object, refs: np.ndarray) -> None:
    if current.surface in LINES:
        return
    corner = np.arange(len(refs) - 2)
    if current.surface == STRIP:
        odd = corner % 2  # every other triangle of a strip turns the other way
        order = np.stack([corner + odd, corner + 1 - odd, corner + 2], 1)
    elif current.surface == POLYGON:
        order = np.stack([np.zeros_like(corner), corner + 1, corner + 2], 1)
    else:
        raise ValueError(f"surface of type {current.surface}")
    current.faces.append(refs[:, 0].astype(np.int64)[order])
    coordinates = refs[:, 1:5]
    if coordinates.shape[1] < 4:
        coordinates = np.pad(coordinates, [(0, 0), (0, 4 - coordinates.shape[1])])
    current.coordinates.append(coordinates[order])


def _finished(current: _Object, colours: list[np.ndarray]) -> Mesh:
    assert current.faces, "an object without surfaces has nothing to show"
    if current.vertices is None:
        raise ValueError(f"object '{current.name}' has surfaces but no vertices")
    faces, coordinates = np.concatenate(current.faces), np.concatenate(current.coordinates)
    if faces.size and not 0 <= faces.min() <= faces.max() < len(current.vertices):
        raise ValueError(f"object '{current.name}' names a vertex that it does not have")
    shadow = current.textures.get("tiled", "")
    return Mesh(
        name=current.name,
        vertices=current.vertices,
        normals=current.normals,
        faces=faces,
        texture_coordinates=coordinates[..., :2],
        shadow_coordinates=coordinates[..., 2:] if shadow else None,
        texture=current.textures.get("base", ""),
        shadow=shadow,
        colour=colours[current.material] if current.material < len(colours) else np.ones(3, np.float32),
    )
