"""ASTM E57: one scan of coloured points, through libE57 (pye57).

Coordinates are float64 from an offset, which is the translation of the scan's pose, as the standard has it; the
coordinate system of a georeferenced scene is stated as well-known text. `intensity` is the confidence, float32.
Standard: ASTM E2807-11.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_train import __version__
from scal3r_train.config import UserError
from scal3r_train.scene.export.output import own_error
from scal3r_train.scene.export.placed_points import PointPlace
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import BLOCK_POINTS, CHANNELS, positions_of

AXES = ("cartesianX", "cartesianY", "cartesianZ")
COLOURS = ("colorRed", "colorGreen", "colorBlue")
MAX_BYTE = 255


def write_e57(source: ExportSource, path: Path) -> str:
    """Write an E57 file; return its contents in words."""
    try:
        from pye57 import libe57  # noqa: PLC0415  optional
    except ImportError as error:
        raise UserError(f"--to e57 needs {error.name}: pip install 'scal3r_train[geo]'") from None
    place = PointPlace.of(source)
    try:
        file = libe57.ImageFile(str(path), "w")
        try:
            num_points = _Writer(libe57, file, place).write(source, path.parent)
        finally:
            file.close()
    except libe57.E57Exception as error:
        raise own_error(path, error) from error
    return f"{num_points} points in {place.words}"


class _Writer:
    """Makes the nodes of one file and fills them."""

    def __init__(self, libe57: Any, file: Any, place: PointPlace) -> None:
        self._libe57, self._file, self._place = libe57, file, place

    def write(self, source: ExportSource, folder: Path) -> int:
        """Write header, scan and points; return how many."""
        root = self._file.root()
        self._file.extensionsAdd("", self._libe57.E57_V1_0_URI)
        root.set("formatName", self._text("ASTM E57 3D Imaging Data File"))
        root.set("guid", self._text(f"{{{uuid.uuid4()}}}"))
        root.set("versionMajor", self._integer(self._libe57.E57_FORMAT_MAJOR))
        root.set("versionMinor", self._integer(self._libe57.E57_FORMAT_MINOR))
        root.set("e57LibraryVersion", self._text(self._libe57.E57_LIBRARY_ID))
        root.set("coordinateMetadata", self._text(self._place.wkt))
        scans = self._libe57.VectorNode(self._file, True)
        root.set("data3D", scans)
        scan = self._structure()
        scans.append(scan)
        scan.set("guid", self._text(f"{{{uuid.uuid4()}}}"))
        scan.set("name", self._text(source.folder.resolve().name))
        scan.set("description", self._text(f"scal3r_train {__version__}, {self._place.words}"))
        scan.set("pose", self._pose())
        low, high = self._place.confidence_range
        scan.set("intensityLimits", self._floats({"intensityMinimum": low, "intensityMaximum": high}))
        limits = self._structure()
        for name in COLOURS:
            limits.set(f"{name}Minimum", self._integer(0))
            limits.set(f"{name}Maximum", self._integer(MAX_BYTE))
        scan.set("colorLimits", limits)
        num_points, lows, highs = self._write_points(scan, source, folder)
        if num_points:
            bounds = {f"{axis}Minimum": float(low) for axis, low in zip("xyz", lows, strict=True)}
            bounds |= {f"{axis}Maximum": float(high) for axis, high in zip("xyz", highs, strict=True)}
            scan.set("cartesianBounds", self._floats(bounds))
        return num_points

    def _write_points(
        self, scan: Any, source: ExportSource, folder: Path
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """Write the points block by block; return how many, and their bounds [3] from the offset."""
        libe57 = self._libe57
        prototype = self._structure()
        arrays: dict[str, np.ndarray] = {}
        for name in AXES:
            prototype.set(name, libe57.FloatNode(self._file, 0.0, libe57.E57_DOUBLE))
            arrays[name] = np.empty(BLOCK_POINTS, np.float64)
        prototype.set("intensity", libe57.FloatNode(self._file, 0.0, libe57.E57_SINGLE))
        arrays["intensity"] = np.empty(BLOCK_POINTS, np.float32)
        for name in COLOURS:
            prototype.set(name, libe57.IntegerNode(self._file, 0, 0, MAX_BYTE))
            arrays[name] = np.empty(BLOCK_POINTS, np.uint8)
        buffers = libe57.VectorSourceDestBuffer()
        for name, values in arrays.items():
            buffers.append(libe57.SourceDestBuffer(self._file, name, values, BLOCK_POINTS, True, True))
        points = libe57.CompressedVectorNode(self._file, prototype, libe57.VectorNode(self._file, True))
        scan.set("points", points)
        writer = points.writer(buffers)
        num_points, lows, highs = 0, np.full(3, np.inf), np.full(3, -np.inf)
        try:
            for vertices in source.points(folder):
                num = len(vertices)
                placed = self._place.coordinates(positions_of(vertices)) - self._place.offset
                for name, column in zip(AXES, placed.T, strict=True):
                    arrays[name][:num] = column
                for name, channel in zip(COLOURS, CHANNELS, strict=True):
                    arrays[name][:num] = vertices[channel]
                arrays["intensity"][:num] = vertices["confidence"]
                writer.write(num)
                num_points += num
                lows, highs = np.minimum(lows, placed.min(axis=0)), np.maximum(highs, placed.max(axis=0))
        finally:
            writer.close()
        return num_points, lows, highs

    def _pose(self) -> Any:
        pose = self._structure()
        pose.set("rotation", self._floats({"w": 1.0, "x": 0.0, "y": 0.0, "z": 0.0}))
        offset = self._place.offset.tolist()
        pose.set("translation", self._floats(dict(zip("xyz", offset, strict=True))))
        return pose

    def _structure(self) -> Any:
        return self._libe57.StructureNode(self._file)

    def _floats(self, values: dict[str, float]) -> Any:
        node = self._structure()
        for name, value in values.items():
            node.set(name, self._libe57.FloatNode(self._file, value))
        return node

    def _integer(self, value: int) -> Any:
        return self._libe57.IntegerNode(self._file, value)

    def _text(self, value: str) -> Any:
        return self._libe57.StringNode(self._file, value)
