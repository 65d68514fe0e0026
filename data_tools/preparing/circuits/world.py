"""What is photographed: triangles with textures, light and a sky.

World coordinates are metres (of the game) with y up, right-handed. Shapes: T triangles, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# A corner: position 3, normal 3, texture 2, shadow map 2, colour 3.
POSITION, NORMAL, TEXTURE, SHADOW, COLOUR = slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10), slice(10, 13)
CORNER_FLOATS = 13


@dataclass(frozen=True)
class Material:
    """What covers triangles: names of a texture and of a baked shadow map that multiplies it, "" for none."""

    texture: str
    shadow: str = ""


@dataclass(frozen=True)
class Light:
    """A direction towards the sun [3] and the strengths [3] of light from everywhere and from there."""

    direction: np.ndarray
    ambient: np.ndarray
    diffuse: np.ndarray


@dataclass(frozen=True)
class World:
    """A scene.

    Attributes:
        triangles: by material, [T, 3, CORNER_FLOATS] float32. Texture coordinates repeat; v = 0 is the bottom row.
        textures: RGBA [H, W, 4] uint8, top row first, of every texture and shadow map that a material names.
        panorama: RGB [H, W, 3] uint8 of what lies behind everything; repeated to close the circle.
        repeats: how often the panorama stands around, every other time mirrored.
        light: of the whole scene.
        files: that went into it; their licences are the pictures'.
    """

    triangles: dict[Material, np.ndarray]
    textures: dict[str, np.ndarray]
    panorama: np.ndarray
    repeats: int
    light: Light
    files: tuple[Path, ...] = field(default=())

    def positions(self) -> np.ndarray:
        """Corners of all triangles, [T, 3, 3] float64."""
        return np.concatenate([corners[..., POSITION] for corners in self.triangles.values()]).astype(
            np.float64
        )


def corners(
    positions: np.ndarray,
    normals: np.ndarray | None,
    texture: np.ndarray,
    shadow: np.ndarray | None,
    colour: np.ndarray,
) -> np.ndarray:
    """Put triangles [T, 3, CORNER_FLOATS] float32 together from [T, 3, n] each; without normals, the triangles' own."""
    result = np.zeros((*positions.shape[:2], CORNER_FLOATS), np.float32)
    result[..., POSITION] = positions
    result[..., NORMAL] = _face_normals(positions)[:, None] if normals is None else normals
    result[..., TEXTURE] = texture
    if shadow is not None:
        result[..., SHADOW] = shadow
    result[..., COLOUR] = colour
    return result


def by_material(pieces: Iterable[tuple[Material, np.ndarray]]) -> dict[Material, np.ndarray]:
    """Put the triangles of each material together, in the order of their first appearance."""
    groups: dict[Material, list[np.ndarray]] = {}
    for material, triangles in pieces:
        groups.setdefault(material, []).append(triangles)
    return {material: np.concatenate(group) for material, group in groups.items()}


def _face_normals(positions: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(positions, 1, 0)
    normal = np.cross(b - a, c - a)
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
