"""The trajectory in TUM's format, the scene's own file: `timestamp tx ty tz qx qy qz qw`, world_from_cam.

The trajectory in KITTI's format: a line per frame, the rows of first_cam_from_cam [3, 4]; no times.
"""

from __future__ import annotations

from pathlib import Path

import torch

from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.folder import read_steady
from scal3r_train.scene.scene import TRAJECTORY_NAME


def write_tum(source: ExportSource, path: Path) -> str:
    """Write the file; return its contents in words."""
    path.write_bytes(read_steady(source.folder, (source.folder / TRAJECTORY_NAME).read_bytes))
    return f"{len(source.cameras.frames)} poses"


def write_kitti(source: ExportSource, path: Path) -> str:
    """Write the file; return its contents in words."""
    world_from_cam = source.cameras.world_from_cam
    first_from_world = world_from_cam[:1, :, :3].mT
    rotation = first_from_world @ world_from_cam[:, :, :3]
    translation = first_from_world @ (world_from_cam[:, :, 3:] - world_from_cam[:1, :, 3:])
    write_trajectory(path, Trajectory(torch.cat([rotation, translation], dim=-1), None), "kitti")
    return f"{len(world_from_cam)} poses"
