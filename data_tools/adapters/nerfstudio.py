"""Scenes in nerfstudio's (and instant-ngp's) transforms.json.

Layout: SCENE/transforms.json with `frames`, each with file_path (relative to the file; instant-ngp leaves out .png) and
transform_matrix = 4x4 world_from_cam with OpenGL axes (x right, y up, z backward). Intrinsics fl_x fl_y cx cy w h and
distortion k1 k2 p1 p2 k3 k4 stand once at the top or in each frame; camera_angle_x (radians) may stand for fl_x.
Pixel centres are at half integers, as in COLMAP. camera_model: OPENCV (default), OPENCV_FISHEYE, PINHOLE,
SIMPLE_PINHOLE; others are refused. Optional per frame: depth_file_path (16-bit PNG in millimetres of the scene's unit,
times depth_unit_scale_factor * 1000 when that is given), mask_path (0 = not to be used). Frames are ordered by name, as
videos are; frames whose image is not there or whose pose is not finite are counted as missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import OPENGL_FROM_OPENCV, inverted, opencv_world_from_cam
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.sequence import SequenceRecord

FILE_NAME = "transforms.json"
LENSES = {"OPENCV": ("k1", "k2", "p1", "p2", "k3"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}
MODELS = {
    "OPENCV": "opencv",
    "OPENCV_FISHEYE": "opencv_fisheye",
    "PINHOLE": "pinhole",
    "SIMPLE_PINHOLE": "pinhole",
}
DEPTH_UNIT_SCALE = 1e-3


class Options(StrictModel):
    """What the files do not say."""

    is_metric: bool = Field(False, description="Whether lengths are metres.")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    for path in sorted(source.rglob(FILE_NAME)):
        folder = path.parent
        name = folder.name if folder == source else folder.relative_to(source).as_posix()
        yield scene(path, dataset="nerfstudio", sequence_id=name, is_metric=options.is_metric)


def scene(path: Path, *, dataset: str, sequence_id: str, **others: Any) -> SequenceRecord:
    """Return the record of one transforms.json; `others` are further fields of the record.

    Raises UserError when the file is damaged, names a camera model that is not known, or none of its images is there.
    """
    return record_of(read_json(path), path, dataset=dataset, sequence_id=sequence_id, **others)


def record_of(
    document: Any, path: Path, *, dataset: str, sequence_id: str, same_size: bool = False, **others: Any
) -> SequenceRecord:
    """Return the record of the content of a transforms.json, for sets that change it a little; raises as `scene`.

    same_size: all images have the size of the first, whose header alone is read.
    """
    frames = entry(document, "frames", path)
    model_name = document.get("camera_model", "OPENCV")
    if model_name not in MODELS:
        raise UserError(
            f"{path}: camera_model {model_name} is not supported; it must be one of {', '.join(MODELS)}"
        )
    frames = sorted(frames, key=lambda frame: natural_key(entry(frame, "file_path", path)))
    images = [_existing_image(path.parent, frame["file_path"]) for frame in frames]
    present = [
        (frame, image)
        for frame, image in zip(frames, images, strict=True)
        if image and _has_pose(frame, path)
    ]
    if not present:
        raise UserError(
            f"{path} lists {len(frames)} frames, none of them has image and pose; check file_path"
        )
    frames, images = [frame for frame, _ in present], [image for _, image in present]
    read = images[:1] if same_size else images
    sizes = np.array([read_image_size(path.parent / image) for image in read])
    sizes = np.tile(sizes, (len(images), 1)) if same_size else sizes
    cameras = [document | frame for frame in frames]
    model = MODELS[model_name]
    lens = np.array([[camera.get(key, 0.0) for key in LENSES.get(model_name, ())] for camera in cameras])
    if model == "opencv":
        _refuse_fourth(cameras, path)
        model = model if lens.any() else "pinhole"
    poses = np.array([frame["transform_matrix"] for frame in frames], np.float64).reshape(len(frames), -1, 4)
    depth = tuple(_existing(path.parent, frame.get("depth_file_path")) for frame in frames)
    mask = tuple(_existing(path.parent, frame.get("mask_path")) for frame in frames)
    unit = document.get("depth_unit_scale_factor", DEPTH_UNIT_SCALE)
    fields: dict[str, Any] = {
        "depth": depth if any(depth) else (),
        "depth_codec": "uint16_mm" if any(depth) else "",
        "depth_scale": unit / DEPTH_UNIT_SCALE,
        "mask": mask if any(mask) else (),
        "mask_rule": "below 1" if any(mask) else "",
        "source": dataset,
    }
    return SequenceRecord(
        dataset=dataset,
        sequence_id=sequence_id,
        root=path.parent,
        image=tuple(images),
        image_size=sizes,
        timestamp=np.arange(len(frames), dtype=np.float64),
        camera_model=model,
        intrinsics=np.array(
            [_intrinsics(camera, hw, path) for camera, hw in zip(cameras, sizes, strict=True)]
        ),
        distortion=lens if model != "pinhole" else None,
        cam_from_world=inverted(opencv_world_from_cam(poses, OPENGL_FROM_OPENCV)),
        num_missing=len(document["frames"]) - len(frames),
        **(fields | others),
    )


def _has_pose(frame: dict[str, Any], path: Path) -> bool:
    try:
        return bool(np.isfinite(np.array(entry(frame, "transform_matrix", path), np.float64)).all())
    except (TypeError, ValueError):
        return False


def _intrinsics(camera: dict[str, Any], hw: np.ndarray, path: Path) -> list[float]:
    """Fx fy cx cy in pixels of the image that is there, which may be smaller than the one that was calibrated."""
    height, width = (int(side) for side in hw)
    scale_x, scale_y = width / camera.get("w", width), height / camera.get("h", height)
    fx = camera.get("fl_x")
    if fx is None:
        angle = entry(camera, "camera_angle_x", path)
        fx = camera.get("w", width) / 2 / math.tan(angle / 2)
    cx, cy = camera.get("cx", width / scale_x / 2), camera.get("cy", height / scale_y / 2)
    return [fx * scale_x, camera.get("fl_y", fx) * scale_y, cx * scale_x, cy * scale_y]


def _refuse_fourth(cameras: list[dict[str, Any]], path: Path) -> None:
    """Nerfstudio's k4 is a further power of the radius, which OpenCV's model does not have."""
    if any(camera.get("k4", 0.0) for camera in cameras):
        raise UserError(
            f"{path}: k4 is not 0, which camera_model OPENCV does not support; undistort the images first"
        )


def _existing_image(folder: Path, name: str) -> str:
    return next((found for found in (name, f"{name}.png") if (folder / found).is_file()), "")


def _existing(folder: Path, name: str | None) -> str:
    return name if name and (folder / name).is_file() else ""
