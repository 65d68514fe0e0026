"""KITTI raw data: a car's drives, synchronised and rectified, with GPS/IMU poses and optional LiDAR depth.

Layout: DATE/DATE_drive_NNNN_sync/{image_02/{data/%010d.png, timestamps.txt}, oxts/data/%010d.txt} and
DATE/{calib_cam_to_cam, calib_velo_to_cam, calib_imu_to_velo}.txt; SRC may be the whole, a date or a drive. Each oxts
file begins with latitude, longitude (degrees), altitude (metres), roll, pitch, yaw (radians). As in the development kit
the world is a Mercator projection whose scale is that of the first frame's latitude, x east, y north, z up, and the IMU
has x forward, y left, z up; calibration leads from the IMU by the LiDAR and rectified camera 0 to the camera asked
for. GPS poses are metric and drift little, but are not exact from frame to frame. Pixel centres are at integers.

Depth, if there: the annotated depth maps (sparse, 1/256 m, uint16, 0 = nothing), proj_depth/groundtruth/image_02/
%010d.png in the drive's folder, or below `depth` as published (train|val/DRIVE/proj_depth/...). They leave out the
first and last five frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.intrinsics_files import projection_parts
from scal3r_data_tools.formats.poses import inverted, rigid
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

EARTH_RADIUS_M = 6378137.0
NUM_OXTS = 30
NO_CAMERA_FOLDER = Cause("without images of that camera", "download the drive's synced+rectified data")


class Options(StrictModel):
    """Which cameras and where depth is."""

    cameras: tuple[Literal["image_02", "image_03"], ...] = Field(
        ("image_02",), min_length=1, description="Colour cameras, left and right; a sequence each."
    )
    depth: Path | None = Field(
        None, description="Folder of the annotated depth maps (with train/ and val/), when not in the drives."
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all drives below the folder and the cameras asked for, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: "oxts" in names, 3):
        for camera in options.cameras:
            if (folder / camera / "data").is_dir():
                yield _sequence(folder, source, camera, options.depth)
            else:
                leave_out(NO_CAMERA_FOLDER, [f"{relative_name(folder, source)}/{camera}"], source, SEQUENCE)


@names_file("folder")
def _sequence(folder: Path, source: Path, camera: str, depth_source: Path | None) -> SequenceRecord:
    intrinsics, cam_from_imu = calibration(folder.parent, camera[-2:])
    images = files_by_number(folder / camera / "data", r"(\d+)\.(?:png|jpg)")
    times = _times(folder / camera / "timestamps.txt")
    oxts = files_by_number(folder / "oxts" / "data", r"(\d+)\.txt")
    numbers = [number for number in sorted(images) if number in oxts and number < len(times)]
    rows = {number: _oxts(folder / "oxts" / "data" / oxts[number]) for number in numbers}
    numbers = [number for number in numbers if np.isfinite(rows[number]).all()]
    absent = sorted(set(range(len(times))) - set(images))
    leave_out(NO_IMAGE, [f"{camera}/data/{number:010d}.png" for number in absent], folder)
    leave_out(NO_POSE, [f"{camera}/data/{images[n]}" for n in sorted(set(images) - set(numbers))], folder)
    if not numbers:
        raise UserError(f"{folder} has no frame with image, time and oxts; is the drive complete?")
    world_from_imu = mercator_poses(np.stack([rows[number] for number in numbers]))
    world_from_cam = world_from_imu @ np.linalg.inv(cam_from_imu)
    depth_folder = _depth_folder(folder, camera, depth_source)
    depth = files_by_number(depth_folder, r"(\d+)\.png") if depth_folder else {}
    where = os.path.relpath(depth_folder, folder) if depth_folder else ""
    name = relative_name(folder, source)
    return SequenceRecord(
        dataset="kitti_raw",
        sequence_id=name if camera == "image_02" else f"{name}/{camera}",
        root=folder,
        image=tuple(f"{camera}/data/{images[number]}" for number in numbers),
        # all images of a drive are rectified to one size
        image_size=np.tile(read_image_size(folder / camera / "data" / images[numbers[0]]), (len(numbers), 1)),
        timestamp=times[numbers],
        depth=tuple(f"{where}/{depth[number]}" if number in depth else "" for number in numbers)
        if depth
        else (),
        depth_codec="uint16_256ths" if depth else "",
        camera_model="pinhole",
        intrinsics=np.tile(intrinsics, (len(numbers), 1)),
        cam_from_world=inverted(world_from_cam),
        pixel_centre="integer",
        num_missing=len(times) - len(numbers),
        is_metric=True,
        is_dynamic=True,
        licence="CC BY-NC-SA 3.0",
        source="KITTI raw data",
    )


def mercator_poses(oxts: np.ndarray) -> np.ndarray:
    """world_from_imu [S, 4, 4], from the first one's place; oxts [S, 6]: latitude longitude altitude roll pitch yaw."""
    latitude, longitude, altitude = oxts[:, 0], oxts[:, 1], oxts[:, 2]
    scale = np.cos(np.deg2rad(latitude[0]))
    poses = np.tile(np.eye(4), (len(oxts), 1, 1))
    poses[:, 0, 3] = scale * EARTH_RADIUS_M * np.deg2rad(longitude)
    poses[:, 1, 3] = scale * EARTH_RADIUS_M * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
    poses[:, 2, 3] = altitude
    poses[:, :3, 3] -= poses[0, :3, 3].copy()
    poses[:, :3, :3] = Rotation.from_euler("ZYX", oxts[:, [5, 4, 3]]).as_matrix()
    return poses


def calibration(folder: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [4] fx fy cx cy and cam_from_imu [4, 4] of rectified camera `camera` ("02") on one date.

    Raises UserError naming the calibration file that is missing or incomplete.
    """
    cameras = _calibration_file(folder / "calib_cam_to_cam.txt", {f"P_rect_{camera}": 12, "R_rect_00": 9})
    projection = cameras[f"P_rect_{camera}"].reshape(3, 4)
    intrinsics, offset = projection_parts(projection, folder / "calib_cam_to_cam.txt", f"P_rect_{camera}")
    rectified_from_cam0 = np.eye(4)
    rectified_from_cam0[:3, :3] = cameras["R_rect_00"].reshape(3, 3)
    cam_from_rectified = np.eye(4)
    cam_from_rectified[:3, 3] = offset
    cam0_from_velo = _rigid(folder / "calib_velo_to_cam.txt")
    velo_from_imu = _rigid(folder / "calib_imu_to_velo.txt")
    return intrinsics, cam_from_rectified @ rectified_from_cam0 @ cam0_from_velo @ velo_from_imu


def _rigid(path: Path) -> np.ndarray:
    values = _calibration_file(path, {"R": 9, "T": 3})
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = values["R"].reshape(3, 3), values["T"]
    return rigid(pose, "R", path)


def _calibration_file(path: Path, wanted: dict[str, int]) -> dict[str, np.ndarray]:
    """Numbers of the lines `NAME: numbers` that are wanted, checked for how many they are."""
    try:
        lines = read_text_file(path).splitlines()
    except OSError:
        raise UserError(f"{path} does not exist; download the calibration files of that date") from None
    texts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {}
    for name, num in wanted.items():
        try:
            found[name] = np.array(texts[name].split(), np.float64).reshape(num)
        except (KeyError, ValueError):
            raise UserError(f"{path} has no line '{name}: ' with {num} numbers; download it again") from None
    return found


def _oxts(path: Path) -> np.ndarray:
    """The first six numbers [6] of an oxts file, NaN when it is damaged."""
    try:
        values = np.array(read_text_file(path).split(), np.float64)
    except (OSError, ValueError):
        return np.full(6, np.nan)
    return values[:6] if len(values) == NUM_OXTS else np.full(6, np.nan)


def _times(path: Path) -> np.ndarray:
    """Seconds since 1970 [S] of lines like 2011-09-26 13:02:25.594360375."""
    try:
        lines = read_text_file(path).split("\n")
        return np.array([_seconds(line) for line in lines if line.strip()])
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; download the drive's [synced+rectified data] again"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _seconds(line: str) -> float:
    whole, _, fraction = line.strip().partition(".")
    start = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    return start.timestamp() + float(f"0.{fraction or 0}")


def _depth_folder(folder: Path, camera: str, depth_source: Path | None) -> Path | None:
    below = Path("proj_depth") / "groundtruth" / camera
    candidates = [folder / below]
    if depth_source is not None:
        candidates += [depth_source.resolve() / split / folder.name / below for split in ("train", "val", "")]
    return next((candidate for candidate in candidates if candidate.is_dir()), None)
