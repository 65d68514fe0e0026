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

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import Names, note_turned, readable
from scal3r_data_tools.formats.json_files import entry, is_finite_number, read_json
from scal3r_data_tools.formats.poses import OPENGL_FROM_OPENCV, inverted, opencv_world_from_cam
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, leave_out, note_once
from scal3r_train.data.io.walk import found_below
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
READ_KEYS = {
    "frames", "camera_model", "file_path", "transform_matrix", "depth_file_path", "mask_path",
    "depth_unit_scale_factor",
    "fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y", "k1", "k2", "k3", "k4", "p1", "p2",
}  # fmt: skip
# What common tools write for others.
IDLE_KEYS = {
    "aabb_scale", "aabb", "scale", "offset", "sharpness", "applied_transform", "applied_scale", "ply_file_path",
    "colmap_im_id", "train_filenames", "val_filenames", "test_filenames", "is_fisheye", "orientation_override",
    "auto_scale_poses_override", "fps", "time", "timestamp", "image_id", "camera_id", "rotation", "n_images",
}  # fmt: skip


class Options(StrictModel):
    """What the files do not say."""

    is_metric: bool = Field(False, description="Whether lengths are metres.")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    for path in found_below(source, lambda name: name == FILE_NAME):
        folder = path.parent
        name = folder.name if folder == source else folder.relative_to(source).as_posix()
        yield scene(path, dataset="nerfstudio", sequence_id=name, is_metric=options.is_metric)


def scene(path: Path, *, dataset: str, sequence_id: str, **others: Any) -> SequenceRecord:
    """Return the record of one transforms.json; `others` are further fields of the record.

    Raises UserError when the file is damaged, names a camera model that is not known, or none of its images is there.
    """
    return record_of(read_json(path), path, dataset=dataset, sequence_id=sequence_id, **others)


@names_file("path")
def record_of(
    document: Any, path: Path, *, dataset: str, sequence_id: str, same_size: bool = False, **others: Any
) -> SequenceRecord:
    """Return the record of the content of a transforms.json, for sets that change it a little; raises as `scene`.

    same_size: all images have the size of the first, whose header alone is read.
    """
    frames = entry(document, "frames", path)
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{path}: 'frames' must be a list of objects")
    document, frames = _without_null(document), [_without_null(frame) for frame in frames]
    frames = sorted(frames, key=lambda frame: natural_key(_listed_name(frame, path)))
    there = Names(path.parent)
    images = [_existing_image(there, frame, path) for frame in frames]
    present, unposed = [], []
    for frame, image in zip(frames, images, strict=True):
        if image and _has_pose(frame, path):
            present.append((frame, image))
        elif image:
            unposed.append(image)
    absent = [frame["file_path"] for frame, image in zip(frames, images, strict=True) if not image]
    if not present:
        example = (
            f", {absent[0]} for one ({there.nearest(absent[0]) or 'nothing is there'})" if absent else ""
        )
        raise UserError(
            f"{path} lists {len(frames)} frames, none of them has image and pose{example}; check file_path"
        )
    leave_out(NO_IMAGE, absent, path.parent)
    leave_out(NO_POSE, unposed, path.parent)
    frames, images = [frame for frame, _ in present], [image for _, image in present]
    found = readable(path.parent, images[:1] if same_size else images)
    headers = dict.fromkeys(images, found[images[0]]) if same_size else found
    note_turned(path.parent, [image for image, header in headers.items() if header.is_turned])
    upright = [
        place for place, image in enumerate(images) if image in headers and not headers[image].is_turned
    ]
    if not upright:
        raise UserError(f"{path}: all {len(headers)} images are to be turned by EXIF against their poses")
    frames, images = [frames[place] for place in upright], [images[place] for place in upright]
    sizes = np.array([headers[image].hw for image in images])
    cameras = [document | frame for frame in frames]
    if dataset == "nerfstudio":  # other sets have keys of their own
        _note_unknown(document, frames, path)
    model, keys = _lens_model(cameras, path)
    lens = np.array([[_number(camera, key, path, 0.0) for key in keys] for camera in cameras])
    if model == "opencv":
        _refuse_fourth(cameras, path)
        model = model if lens.any() else "pinhole"
    poses = np.array([frame["transform_matrix"] for frame in frames], np.float64).reshape(len(frames), -1, 4)
    depth = tuple(there.find(_text(frame, "depth_file_path", path)) for frame in frames)
    mask = tuple(there.find(_text(frame, "mask_path", path)) for frame in frames)
    unit = _number(document, "depth_unit_scale_factor", path, DEPTH_UNIT_SCALE, above=0)
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


def _listed_name(frame: dict[str, Any], path: Path) -> str:
    entry(frame, "file_path", path)
    return _text(frame, "file_path", path)


def _has_pose(frame: dict[str, Any], path: Path) -> bool:
    try:
        matrix = np.array(entry(frame, "transform_matrix", path), np.float64)
    except (TypeError, ValueError):
        return False
    return matrix.size in (12, 16) and bool(np.isfinite(matrix).all())


def _without_null(mapping: dict[str, Any]) -> dict[str, Any]:
    """`null` says nothing, as a missing key does."""
    return {key: value for key, value in mapping.items() if value is not None}


def _number(
    camera: dict[str, Any], key: str, path: Path, default: float | None = None, *, above: float | None = None
) -> float:
    """A finite number of a camera. Raises UserError naming key, value and file for anything else."""
    value: Any = camera.get(key, default)
    if not is_finite_number(value, above):
        limit = "" if above is None else f" above {above:g}"
        where = f" of {camera['file_path']}" if "file_path" in camera else ""
        raise UserError(
            f"{path}: {key}{where} is {json.dumps(value)[:40]}; it must be a number{limit}, or be left out"
        )
    return float(value)


def _lens_model(cameras: list[dict[str, Any]], path: Path) -> tuple[str, tuple[str, ...]]:
    """Our name of the lens and the keys of its coefficients; each frame may name its own, of one family."""
    names = {str(camera.get("camera_model", "OPENCV")) for camera in cameras}
    unknown = sorted(names - set(MODELS))
    if unknown:
        raise UserError(
            f"{path}: camera_model {unknown[0]} is not supported; it must be one of {', '.join(MODELS)}"
        )
    lenses = {name for name in names if name in LENSES}
    if len(lenses) > 1 or ("OPENCV_FISHEYE" in names and len(names) > 1):
        raise UserError(
            f"{path}: its frames have cameras of {' and '.join(sorted(names))}; make a scene of each"
        )
    name = next(iter(lenses), "PINHOLE")
    return MODELS[name], LENSES.get(name, ())


def _note_unknown(document: dict[str, Any], frames: list[dict[str, Any]], path: Path) -> None:
    """Say once which keys are not read: one of them may be what the user relies on."""
    keys = {*document, *(key for frame in frames for key in frame)}
    unknown = sorted(keys - READ_KEYS - IDLE_KEYS)
    if unknown:
        line = f"{path}: not read: {', '.join(unknown[:8])}{', ..' if len(unknown) > 8 else ''}"
        note_once(("keys", *unknown), line)


def _intrinsics(camera: dict[str, Any], hw: np.ndarray, path: Path) -> list[float]:
    """Fx fy cx cy in pixels of the image that is there, which may be smaller than the one that was calibrated."""
    height, width = (int(side) for side in hw)
    full_width = _number(camera, "w", path, width, above=0)
    full_height = _number(camera, "h", path, height, above=0)
    scale_x, scale_y = width / full_width, height / full_height
    fx, fy = _focal(camera, "x", full_width, path), _focal(camera, "y", full_height, path)
    if fx is None and fy is None:
        raise UserError(f"{path} has no 'fl_x' nor 'camera_angle_x'; is this the dataset's own layout?")
    fx = fy if fx is None else fx
    fy = fx if fy is None else fy
    assert fx is not None and fy is not None, "one of them is known"  # noqa: PT018
    cx = _number(camera, "cx", path, full_width / 2)
    cy = _number(camera, "cy", path, full_height / 2)
    return [fx * scale_x, fy * scale_y, cx * scale_x, cy * scale_y]


def _focal(camera: dict[str, Any], axis: str, side: float, path: Path) -> float | None:
    """The focal length of an axis, or what its field of view comes to; None when neither is there."""
    if f"fl_{axis}" in camera:
        return _number(camera, f"fl_{axis}", path, above=0)
    if f"camera_angle_{axis}" not in camera:
        return None
    angle = _number(camera, f"camera_angle_{axis}", path, above=0)
    if angle >= math.pi:
        raise UserError(f"{path}: camera_angle_{axis} is {angle:g}; it must be below pi, in radians")
    return side / 2 / math.tan(angle / 2)


def _refuse_fourth(cameras: list[dict[str, Any]], path: Path) -> None:
    """Nerfstudio's k4 is a further power of the radius, which OpenCV's model does not have."""
    if any(camera.get("k4", 0.0) for camera in cameras):
        raise UserError(
            f"{path}: k4 is not 0, which camera_model OPENCV does not support; undistort the images first"
        )


def _existing_image(there: Names, frame: dict[str, Any], path: Path) -> str:
    name = _text(frame, "file_path", path)
    return there.find(name) or there.find(f"{name}.png")


def _text(frame: dict[str, Any], key: str, path: Path) -> str:
    """A name of a file, "" without. Raises UserError for anything else."""
    value = frame.get(key, "")
    if not isinstance(value, str):
        raise UserError(
            f"{path}: {key} of a frame is {json.dumps(value)[:40]}; it must be the name of a file"
        )
    return value
