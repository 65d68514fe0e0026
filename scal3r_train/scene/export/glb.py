"""Points, camera frusta and path as one binary glTF 2.0 file for viewers on the web, Blender and the like.

glTF's y points up and a camera looks along -z, so world points (x, y, z) become (x, -y, -z): half a turn about x, in
the numbers themselves. Colours are stored linear, as glTF wants them, in float32. Frusta and path are one set of lines;
a frustum is as deep as the median step between frames. Where the trajectory is torn, the path has a gap. The points
are streamed: the JSON chunk that describes them stands before them and is filled in last.
Layout: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. Shapes: S frames, N points.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scal3r_train import __version__
from scal3r_train.config import UserError
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import colours_of, positions_of
from scal3r_train.scene.scene import SceneCameras

GLTF_FROM_WORLD = np.diag([1.0, -1.0, -1.0])
VERTEX = np.dtype([("position", "<f4", 3), ("colour", "<f4", 3)])
MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
HEADER_BYTES, CHUNK_HEADER_BYTES, JSON_BYTES = 12, 8, 4096
MAX_BYTES = 2**32 - 1
FLOAT, ARRAY_BUFFER, POINTS_MODE, LINES_MODE = 5126, 34962, 0, 1
LINE_COLOUR = (230, 90, 20)
CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)  # of an image, times its width and height
MIN_DEPTH_SHARE = 0.003  # of a frustum, relative to the diagonal of the camera path
# sRGB to linear light (IEC 61966-2-1), for every 8-bit value.
_UNIT = np.arange(256) / 255
LINEAR = np.where(_UNIT <= 0.04045, _UNIT / 12.92, ((_UNIT + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass
class _Part:
    """One set of points or line ends: how many, and their bounds."""

    name: str
    mode: int
    count: int = 0
    low: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(3, -np.inf))

    def write(self, file: BinaryIO, vertices: np.ndarray) -> None:
        self.low = np.minimum(self.low, vertices["position"].min(axis=0))
        self.high = np.maximum(self.high, vertices["position"].max(axis=0))
        self.count += len(vertices)
        file.write(vertices.view(np.uint8).data)


def write(source: ExportSource, path: Path) -> str:
    """Write the file; return its contents in words. Raises UserError when the points do not fit."""
    lines = camera_lines(source.cameras)
    points, cameras = _Part("points", POINTS_MODE), _Part("cameras", LINES_MODE)
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES + CHUNK_HEADER_BYTES + JSON_BYTES + CHUNK_HEADER_BYTES))
        for block in source.points(path.parent):
            points.write(file, _vertices(positions_of(block), colours_of(block)))
            _refuse_huge(file.tell() + lines.size * VERTEX.itemsize)
        cameras.write(file, _vertices(lines.reshape(-1, 3), np.array([LINE_COLOUR], np.uint8)))
        _fill_in(file, [part for part in (points, cameras) if part.count])
    return f"{points.count} points, {len(source.cameras.frames)} cameras"


def camera_lines(cameras: SceneCameras) -> np.ndarray:
    """Return the line segments of frusta and path in world coordinates, [L, 2, 3] float64."""
    world_from_cam = cameras.world_from_cam.numpy()
    centres = world_from_cam[:, :, 3]
    hw = np.array([frame.image_hw for frame in cameras.frames], np.float64)
    intrinsics = cameras.intrinsics.numpy()
    pixels = CORNERS * hw[:, None, ::-1]
    principal, focal = intrinsics[:, None, :2, 2], intrinsics[:, None, [0, 1], [0, 1]]
    rays = np.concatenate([(pixels - principal) / focal, np.ones((len(hw), 4, 1))], axis=-1)
    corners = frustum_depth(centres) * rays @ world_from_cam[:, :, :3].swapaxes(1, 2) + centres[:, None]
    sides = np.stack([np.broadcast_to(centres[:, None], corners.shape), corners], axis=2)
    borders = np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    path = np.stack([centres[:-1], centres[1:]], axis=1)
    torn = {cameras.info.provided_frames[chunk][0] for chunk in cameras.info.breaks}
    whole = np.array([frame not in torn for frame in range(1, len(centres))], bool)
    return np.concatenate([sides.reshape(-1, 2, 3), borders.reshape(-1, 2, 3), path[whole]])


def frustum_depth(centres: np.ndarray) -> float:
    """Return how deep frusta at camera centres [S, 3] are drawn, in world units; 1 for a camera that does not move."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    diagonal = float(np.linalg.norm(np.ptp(centres, axis=0)))
    median = float(np.median(steps)) if len(steps) else 0.0
    return max(median, MIN_DEPTH_SHARE * diagonal) or 1.0


def _vertices(positions: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return vertices from world positions [N, 3] and RGB colours [N, 3] or [1, 3] uint8."""
    vertices = np.empty(len(positions), VERTEX)
    vertices["position"] = positions * GLTF_FROM_WORLD.diagonal().astype(positions.dtype)
    vertices["colour"] = LINEAR[colours]
    return vertices


def _refuse_huge(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"a .glb file holds at most {MAX_BYTES // VERTEX.itemsize} points; use --voxel-size or --max-points"
        )


def _fill_in(file: BinaryIO, parts: list[_Part]) -> None:
    """Write the headers of file and chunks, and the JSON chunk, padded with spaces."""
    size = file.tell()
    document = json.dumps(_document(parts)).encode("ascii")
    assert len(document) <= JSON_BYTES
    file.seek(0)
    file.write(struct.pack("<3I", MAGIC, VERSION, size))
    file.write(struct.pack("<2I", JSON_BYTES, JSON_CHUNK) + document.ljust(JSON_BYTES))
    file.write(struct.pack("<2I", sum(part.count for part in parts) * VERTEX.itemsize, BINARY_CHUNK))


def _document(parts: Iterable[_Part]) -> dict[str, Any]:
    views, accessors, meshes, nodes = [], [], [], []
    offset = 0
    for number, part in enumerate(parts):
        num_bytes = part.count * VERTEX.itemsize
        views.append(
            {
                "buffer": 0,
                "byteOffset": offset,
                "byteLength": num_bytes,
                "byteStride": VERTEX.itemsize,
                "target": ARRAY_BUFFER,
            }
        )
        common = {"bufferView": number, "componentType": FLOAT, "count": part.count, "type": "VEC3"}
        bounds = {"min": part.low.tolist(), "max": part.high.tolist()}
        accessors += [{**common, **bounds}, {**common, "byteOffset": VERTEX.itemsize // 2}]
        attributes = {"POSITION": 2 * number, "COLOR_0": 2 * number + 1}
        meshes.append({"name": part.name, "primitives": [{"attributes": attributes, "mode": part.mode}]})
        nodes.append({"name": part.name, "mesh": number})
        offset += num_bytes
    return {
        "asset": {"version": "2.0", "generator": f"scal3r {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
