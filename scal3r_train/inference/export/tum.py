"""The trajectory in TUM's format, the scene's own file: `timestamp tx ty tz qx qy qz qw`, world_from_cam."""

from __future__ import annotations

from pathlib import Path

from scal3r_train.inference.export.source import ExportSource
from scal3r_train.inference.scene import TRAJECTORY_NAME
from scal3r_train.inference.scene_swap import read_steady


def write(source: ExportSource, path: Path) -> str:
    """Write the file; return its contents in words."""
    path.write_bytes(read_steady(source.folder, (source.folder / TRAJECTORY_NAME).read_bytes))
    return f"{len(source.cameras.frames)} poses"
