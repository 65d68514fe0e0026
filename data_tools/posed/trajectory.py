"""Where the poses of a sequence are, and which image has which. Shapes: S images, P poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.matching import Matched, frame_keys, match_poses
from scal3r_data_tools.formats.pose_files import PoseTable, read_pose_file, read_pose_table
from scal3r_data_tools.formats.poses import (
    FLU_FROM_OPENCV,
    NED_FROM_OPENCV,
    OPENGL_FROM_OPENCV,
    Trajectory,
    inverted,
    opencv_world_from_cam,
)
from scal3r_data_tools.posed.options import Options
from scal3r_train.config import UserError
from scal3r_train.data.index.source import is_image_name

POSE_FILES = (
    "poses.txt",
    "pose.txt",
    "groundtruth.txt",
    "trajectory.txt",
    "traj.txt",
    "traj_gt.txt",
    "poses.csv",
    "poses.json",
    "cameras.json",
    "pv.txt",
    "state_groundtruth_estimate0/data.csv",
)
POSE_FOLDERS = ("poses", "pose", "cameras", "extrinsics", "")
POSE_SUFFIXES = (".txt", ".npy", ".camera")
AXES = {
    "opencv": np.eye(3),
    "opengl": OPENGL_FROM_OPENCV,
    "ned": NED_FROM_OPENCV,
    "flu": FLU_FROM_OPENCV,
}


def find_poses(
    source: Path, folder: Path, images: list[str], stamps: np.ndarray | None, options: Options
) -> tuple[np.ndarray, Matched, PoseTable, str]:
    """cam_from_world [S, 3, 4] with OpenCV axes, by what each was found, the table, and its name."""
    path = _pose_source(source, folder, images, options)
    table = _table_of_files(path, images) if path.is_dir() else read_pose_table(path)
    where = path.name if path != source else "files beside the images"
    world_from_cam = inverted(table.pose) if options.poses_are == "cam_from_world" else table.pose
    world_from_cam = opencv_world_from_cam(world_from_cam, AXES[axes_of(options, table)])
    usable = np.isfinite(world_from_cam).all((1, 2))
    matched = match_poses(images, stamps, table, where, options.match, options.max_gap_s)
    pose = np.full((len(images), 3, 4), np.nan)
    if matched.rule == "time" and options.interpolate:
        assert stamps is not None, "matched by them"
        assert table.time is not None, "matched by them"
        pose, found = _between(world_from_cam[usable], table.time[usable], stamps, path, options)
        return inverted(pose), Matched(np.where(found, matched.row, -1), "time, interpolated"), table, where
    row = np.where((matched.row >= 0) & usable[matched.row], matched.row, -1)
    pose[row >= 0] = world_from_cam[row[row >= 0]]
    return inverted(pose), Matched(row, matched.rule, matched.unused), table, where


def _between(
    world_from_cam: np.ndarray, times: np.ndarray, stamps: np.ndarray, path: Path, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    quaternion = Rotation.from_matrix(world_from_cam[:, :, :3]).as_quat()
    trajectory = Trajectory.of(times, world_from_cam[:, :, 3], quaternion, path)
    return trajectory.at(stamps, options.max_gap_s, interpolate=True)


def axes_of(options: Options, table: PoseTable) -> str:
    """Return the camera axes of the poses: as given, else those of the format."""
    if options.camera_axes != "auto":
        return options.camera_axes
    return "opengl" if table.is_opengl else "opencv"


def _pose_source(source: Path, folder: Path, images: list[str], options: Options) -> Path:
    if options.poses != "auto":
        path = source / options.poses
        if not path.exists():
            raise UserError(f"{path} does not exist; poses= is a file or a folder below {source}")
        return path
    places = dict.fromkeys((source, folder, folder.parent))
    for place in places:
        for name in POSE_FILES:
            if (place / name).is_file():
                return place / name
    for place in places:
        for name in POSE_FOLDERS:
            if (place / name).is_dir() and _pose_files(place / name, images[:1]):
                return place / name
    others = sorted(path.name for path in source.iterdir() if path.is_file() and not is_image_name(path.name))
    files = ", ".join(others[:6]) or "no file"
    raise UserError(
        f"{source} has no file of poses of a usual name; name it with poses=FILE (there is {files})"
    )


def _pose_files(folder: Path, images: list[str]) -> dict[str, str]:
    """The file of its own that an image has, by the image's name: same stem, or the same number in the same place."""
    by_key: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in POSE_SUFFIXES and path.is_file():
            for key in frame_keys(path.name):
                by_key.setdefault(key, path.name)
    return {name: by_key[key] for name in images for key in frame_keys(name) if key in by_key}


def _table_of_files(folder: Path, images: list[str]) -> PoseTable:
    files = _pose_files(folder, images)
    if not files:
        raise UserError(
            f"{folder} holds no pose file ({', '.join(POSE_SUFFIXES)}) for {images[0]} or any other image"
        )
    tables = [read_pose_file(folder / file) for file in files.values()]
    own = [table.intrinsics for table in tables if table.intrinsics is not None]
    return PoseTable(
        np.concatenate([table.pose for table in tables]),
        tables[0].form,
        name=tuple(files),
        intrinsics=np.concatenate(own) if len(own) == len(tables) else None,
        size_hw=tables[0].size_hw,
    )
