"""The points as a PLY file: binary little endian, float x y z, uchar red green blue, float confidence, scene world."""

from __future__ import annotations

from pathlib import Path

from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import PlyWriter


def write(source: ExportSource, path: Path) -> str:
    """Write the file; return its contents in words."""
    with path.open("wb") as file:
        writer = PlyWriter(file)
        for vertices in source.points(path.parent):
            writer.append(vertices)
        writer.finish()
    return f"{writer.num_points} points"
