"""The trajectory alone, in TUM's format (which is the scene's own) and in KITTI's."""

from __future__ import annotations

from pathlib import Path

import torch

from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.folder import read_steady
from scal3r_train.scene.scene import TRAJECTORY_NAME


def write_tum(source: ExportSource, path: Path) -> str:
    """Write lines `timestamp tx ty tz qx qy qz qw` of world_from_cam, as in the scene folder; return them in words."""
    path.write_bytes(read_steady(source.folder, (source.folder / TRAJECTORY_NAME).read_bytes))
    return f"{len(source.cameras.frames)} poses"


def write_kitti(source: ExportSource, path: Path) -> str:
    """Write a line per frame, the rows of first_cam_from_cam [3, 4], without times; return them in words."""
    world_from_cam = source.cameras.world_from_cam
    first_from_world = world_from_cam[:1, :, :3].mT
    rotation = first_from_world @ world_from_cam[:, :, :3]
    translation = first_from_world @ (world_from_cam[:, :, 3:] - world_from_cam[:1, :, 3:])
    write_trajectory(path, Trajectory(torch.cat([rotation, translation], dim=-1), None), "kitti")
    return f"{len(world_from_cam)} poses"
