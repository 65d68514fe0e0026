"""nerfstudio's transforms.json with intrinsics in every frame, and the points as points.ply.

`transform_matrix` is world_from_cam with OpenGL camera axes (x right, y up, z backward). The world is the scene's, so
`applied_transform`, which says how it was changed, is the identity, and the points need no change either. `file_path`
is relative to transforms.json. Pixel centres are at half integers, as in the scene.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from scal3r_train.data.io.frame_files import VIDEO_FRAME
from scal3r_train.scene.export.images import IMAGES_NAME, image_names, put_images
from scal3r_train.scene.export.source import ExportSource

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
POINTS_NAME = "points.ply"


def write(source: ExportSource, folder: Path) -> str:
    """Write the files into a folder; return their contents in words."""
    names, cameras = image_names(source), source.cameras
    paths = [
        _file_path(source, folder, frame.name, name)
        for frame, name in zip(cameras.frames, names, strict=True)
    ]
    world_from_cam = np.tile(np.eye(4), (len(names), 1, 1))
    world_from_cam[:, :3] = cameras.world_from_cam.numpy()
    transforms = world_from_cam @ OPENGL_FROM_OPENCV
    frames = [
        _frame(path, frame.image_hw, intrinsics, transform)
        for path, frame, intrinsics, transform in zip(
            paths, cameras.frames, cameras.intrinsics.numpy(), transforms, strict=True
        )
    ]
    document = {
        "camera_model": "PINHOLE",
        "ply_file_path": POINTS_NAME,
        "applied_transform": np.eye(4)[:3].tolist(),
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    points = source.write_ply(folder / POINTS_NAME)
    put_images(source, names, folder)
    return f"{len(names)} images, {points}"


def _file_path(source: ExportSource, folder: Path, input_name: str, name: str) -> str:
    """Return where an image is, seen from the folder: below it when it is written or may be extracted there."""
    if source.options.write_images or VIDEO_FRAME.fullmatch(input_name):
        return f"{IMAGES_NAME}/{name}"
    # The folder's temporary name has the same parent as its final one.
    return PurePath(os.path.relpath((source.images_root / name).resolve(), folder.resolve())).as_posix()


def _frame(
    path: str, image_hw: tuple[int, int], intrinsics: np.ndarray, transform: np.ndarray
) -> dict[str, Any]:
    return {
        "file_path": path,
        "w": image_hw[1],
        "h": image_hw[0],
        "fl_x": float(intrinsics[0, 0]),
        "fl_y": float(intrinsics[1, 1]),
        "cx": float(intrinsics[0, 2]),
        "cy": float(intrinsics[1, 2]),
        "transform_matrix": transform.tolist(),
    }
