"""Hypersim: indoor scenes by artists, rendered.

Layout: ai_VVV_NNN/{_detail, images}; SRC is the folder of scenes, or one scene. Per camera trajectory XX:
_detail/cam_XX/camera_keyframe_{positions [N, 3], orientations [N, 3, 3], frame_indices [N]}.hdf5, world_from_cam with
OpenGL axes (x right, y up, z backward), positions in asset units (metres: times meters_per_asset_unit of
_detail/metadata_scene.csv); images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg and
images/scene_cam_XX_final_hdf5/frame.IIII.color.hdf5 (linear, not tone mapped);
images/scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5: length of the ray in metres. 1024 x 768, the image spans
the projection's bounds, so pixel centres are at half integers.

Cameras: metadata_camera_parameters.csv of the set's repository (contrib/mikeroberts3000) holds a projection M_proj per
scene. Some scenes have a tilted image plane (tilt and shift). That is a pinhole camera turned against the pose that is
stored: the projection is split into an upper triangular matrix and a rotation, which is put into the poses; ray lengths
do not change. What would still need a skew of the pixel grid is left out, which is said. Without the table, every
camera has a horizontal field of view of 60 degrees, wrong by many pixels for tilted scenes: it takes an option.

Images are the tone mapped previews (JPEG) where they are there, else the linear ones, tone mapped on load
(scal3r_train/data/io/image_codec.py). Quirks: poses and depths that are not finite occur; 2,781 images were never
published (people, logos) and count as missing. The split is that of metadata_images_split_scene_v1.csv when that lies
in SRC.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy.linalg import rq

from scal3r_data_tools.formats.files import files_by_number
from scal3r_data_tools.formats.optional import optional
from scal3r_data_tools.formats.poses import OPENGL_FROM_OPENCV, inverted, opencv_world_from_cam
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.hdf5_file import read_hdf5
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_FRAMES, NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

CAMERA_TABLE, SPLIT_TABLE = "metadata_camera_parameters.csv", "metadata_images_split_scene_v1.csv"
DEFAULT_FIELD_OF_VIEW = np.pi / 3
MAX_SKEW_PX = 0.5
KINDS = (("final_preview", r"frame\.(\d+)\.tonemap\.jpg"), ("final_hdf5", r"frame\.(\d+)\.color\.hdf5"))
KEY = "dataset"

TILTED = Cause("of a tilted image plane, which no camera here has")


class Options(StrictModel):
    """What the scenes' own folders do not say."""

    camera_parameters: str = Field(
        "", description=f"path of {CAMERA_TABLE}; default: that in SRC or beside it"
    )
    assume_default_lens: bool = Field(
        default=False, description="60 degrees for scenes that the table does not name, tilted ones included"
    )
    prefer_previews: bool = Field(
        default=True, description="JPEG previews where they are there; false: linear images where they are"
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all camera trajectories, by scene and camera."""
    source = source.resolve()
    scenes = [source] if (source / "_detail").is_dir() else sorted(p.parent for p in source.glob("*/_detail"))
    if not scenes:
        return
    optional("h5py", "hypersim", "pip install 'scal3r_train[data]'")
    projections = _projections(source, options)
    splits = _splits(source)
    for scene in scenes:
        projection = projections.get(scene.name)
        if projection is None and not options.assume_default_lens:
            raise UserError(
                f"{scene} has no row in {CAMERA_TABLE}; get that table from the repository apple/ml-hypersim "
                "(contrib/mikeroberts3000) into SRC, or set assume_default_lens=true"
            )
        for detail in sorted((scene / "_detail").glob("cam_*")):
            record = _trajectory(scene, detail, projection, options, splits.get(scene.name, "train"))
            if record is not None:
                yield record


@names_file("source")
def _projections(source: Path, options: Options) -> dict[str, np.ndarray]:
    """Per scene [3, 3], from a point of the OpenGL camera to x, y, w of normalized device coordinates."""
    places = [source / CAMERA_TABLE, source.parent / CAMERA_TABLE]
    path = Path(options.camera_parameters) if options.camera_parameters else None
    path = path or next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {
                row["scene_name"]: np.array(
                    [[row[f"M_proj_{i}{j}"] for j in "012"] for i in "013"], np.float64
                )
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not Hypersim's {CAMERA_TABLE}: {error}") from None


@names_file("source")
def _splits(source: Path) -> dict[str, str]:
    path = source / SPLIT_TABLE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row["scene_name"]: row["split_partition_name"] or "train" for row in csv.DictReader(file)}


@names_file("scene")
def _trajectory(
    scene: Path, detail: Path, projection: np.ndarray | None, options: Options, split: str
) -> SequenceRecord | None:
    poses = _world_from_cam(scene, detail)
    folder, images = _images(scene, detail.name, options)
    good = [number for number, pose in poses.items() if number in images and np.isfinite(pose).all()]
    leave_out(NO_IMAGE, [f"frame.{n:04d}.color.jpg" for n in poses if n not in images], scene / folder)
    unposed = [number for number, pose in poses.items() if number in images and number not in good]
    leave_out(NO_POSE, [images[number] for number in unposed], scene / folder)
    if not good:
        leave_out(NO_FRAMES, [detail.name], scene, SEQUENCE)
        return None
    size = read_image_size(scene / folder / images[good[0]])
    intrinsics, turn, skew_px = _camera(projection, size)
    if skew_px > MAX_SKEW_PX:
        leave_out(TILTED, [f"{detail.name} (skewed by {skew_px:.1f} px)"], scene, SEQUENCE)
        leave_out(TILTED, [images[number] for number in good], scene / folder)
        return None
    world_from_cam = opencv_world_from_cam(np.stack([poses[number] for number in good]), OPENGL_FROM_OPENCV)
    geometry = f"images/scene_{detail.name}_geometry_hdf5"
    depths: dict[int, str] = {}
    if (scene / geometry).is_dir():
        depths = files_by_number(scene / geometry, r"frame\.(\d+)\.depth_meters\.hdf5")
    depth = tuple(f"{geometry}/{depths[number]}" if number in depths else "" for number in good)
    return SequenceRecord(
        dataset="hypersim",
        sequence_id=f"{scene.name}/{detail.name}",
        split=split,
        root=scene,
        image=tuple(f"{folder}/{images[number]}" for number in good),
        image_size=np.tile(size, (len(good), 1)),  # every image of the set has the size of the first
        timestamp=np.array(good, np.float64),
        depth=depth if any(depth) else (),
        depth_codec="hdf5_ray" if any(depth) else "",
        camera_model="pinhole",
        intrinsics=np.tile(intrinsics, (len(good), 1)),
        cam_from_world=turn @ inverted(world_from_cam),
        num_missing=len(poses) - len(good),
        is_metric=True,
        is_synthetic=True,
        licence="CC BY-SA 3.0",
        source="Hypersim",
    )


def _images(scene: Path, camera: str, options: Options) -> tuple[str, dict[int, str]]:
    """Folder, relative to the scene, and names by number of the kind of image that is there."""
    for kind, pattern in KINDS if options.prefer_previews else KINDS[::-1]:
        folder = f"images/scene_{camera}_{kind}"
        if (scene / folder).is_dir() and (found := files_by_number(scene / folder, pattern)):
            return folder, found
    return "", {}


def _world_from_cam(scene: Path, detail: Path) -> dict[int, np.ndarray]:
    """Poses [3, 4] by frame number, OpenGL axes, metres."""
    positions = _read(detail / "camera_keyframe_positions.hdf5").reshape(-1, 3)
    rotations = _read(detail / "camera_keyframe_orientations.hdf5").reshape(-1, 3, 3)
    numbers_file = detail / "camera_keyframe_frame_indices.hdf5"
    numbers = _read(numbers_file).ravel() if numbers_file.is_file() else np.arange(len(positions))
    if not len(positions) == len(rotations) == len(numbers):
        raise UserError(
            f"{detail}: {len(positions)} positions, {len(rotations)} orientations, {len(numbers)} frame indices; "
            "get them again"
        )
    poses = np.concatenate([rotations, positions[:, :, None] * _metres_per_unit(scene)], 2)
    return {
        int(number): pose for number, pose in sorted(zip(numbers, poses, strict=True), key=lambda row: row[0])
    }


def _metres_per_unit(scene: Path) -> float:
    path = scene / "_detail" / "metadata_scene.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = {row["parameter_name"]: row["parameter_value"] for row in csv.DictReader(file)}
        return float(rows["meters_per_asset_unit"])
    except (OSError, KeyError, ValueError):
        raise UserError(f"{path} holds no meters_per_asset_unit; is this Hypersim's own layout?") from None


def _read(path: Path) -> np.ndarray:
    optional("h5py", "hypersim", "pip install 'scal3r_train[data]'")
    try:
        return read_hdf5(path, KEY).astype(np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _camera(projection: np.ndarray | None, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Fx fy cx cy [4]; rotation [3, 3] from the stored camera to that of the image plane; skew in pixels."""
    height, width = hw
    if projection is None:
        zoom = 1 / np.tan(DEFAULT_FIELD_OF_VIEW / 2)
        projection = np.array([[zoom, 0, 0], [0, zoom * width / height, 0], [0, 0, -1]])
    pixels = np.array([[width / 2, 0, width / 2], [0, -height / 2, height / 2], [0, 0, 1]])
    upper, turn = rq(pixels @ projection @ OPENGL_FROM_OPENCV)
    signs = np.diag(np.sign(np.diag(upper)))
    upper, turn = upper @ signs, signs @ turn
    upper = upper / upper[2, 2]
    skew_px = abs(upper[0, 1]) * height / 2 / upper[1, 1]
    return upper[[0, 1, 0, 1], [0, 1, 2, 2]], turn, float(skew_px)
