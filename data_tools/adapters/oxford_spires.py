"""Oxford Spires: hand-held fisheye cameras and LiDAR in old colleges, poses in the frame of a laser scan (TLS).

Layout, raw: sequences/NAME/{raw/cam0/TIME.jpg, processed/trajectory/gt-tum.txt} and calibration/{cam0.yaml,
cam-lidar-imu.yaml}; SRC may be the whole or one sequence. images.zip must be unpacked, into raw/ or raw/images/.
calibration/ (searched above the sequence and below) may instead hold the development kit's sensor.yaml.
gt-tum.txt: timestamp tx ty tz qx qy qz qw of world_from_base, metres, about 20 Hz. T_cam_lidar is cam_from_lidar and
T_base_lidar is base_from_lidar (the same for all: half a turn about z, 0.124 m up), so world_from_cam = world_from_base
@ base_from_lidar @ lidar_from_cam. Cameras have OpenCV axes and its fisheye lens (Kannala-Brandt k1..k4), pixel centres
at integers. An image gets the pose nearest in time; images without one count as missing.
Depth: `scal3r data prepare oxford_spires SRC OUT` projects the laser scan into the images; `depth` = OUT uses it.

Layout, as LingBot-Map processes it: NAME/{images/%06d.png, depth/%06d.npy, intrinsics.txt (fx fy cx cy width height),
poses_c2w.txt (4x4 world_from_cam row by row)}: undistorted, no times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.poses import inverted, pose_from_xyzw, read_tum, rigid
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_data_tools.formats.yaml_files import numbers, read_yaml
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import is_image_name
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import IMAGE, NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import is_number

DEPTH_CODEC = "uint16_256ths"
TRUTH = Path("processed") / "trajectory" / "gt-tum.txt"
LINGBOT_POSES = "poses_c2w.txt"
FRAMES_PER_SECOND = 20.0
LIDAR_ON_BASE = (0.0, 0.0, 0.124, 0.0, 0.0, 1.0, 0.0)  # translation, quaternion xyzw
SEARCH_LEVELS = 4
NO_TRUTH = Cause(f"without {TRUTH}", "it has no public ground truth, or it was not downloaded")
NO_TIME = Cause("not named by a time in seconds")


class Options(StrictModel):
    """Which camera, how poses are matched, and what lies elsewhere."""

    camera: Literal["cam0", "cam1", "cam2"] = Field("cam0", description="Which camera: front, left or right.")
    max_gap_s: float = Field(0.1, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        False, description="Interpolate between two poses instead of taking the nearest."
    )
    calibration: Path | None = Field(
        None, description="Folder of cam0.yaml and cam-lidar-imu.yaml, or a sensor.yaml, when not in SRC."
    )
    depth: Path | None = Field(None, description="Folder that `scal3r data prepare oxford_spires` wrote.")


@dataclass(frozen=True)
class Calibration:
    """A camera: intrinsics [4] and size of the calibrated image, lens [4], base_from_cam [4, 4]."""

    intrinsics: np.ndarray
    image_hw: tuple[int, int]
    lens: np.ndarray
    base_from_cam: np.ndarray


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences at most four levels below the folder that have ground truth, ordered by path."""
    source = source.resolve()
    for folder in folders_where(
        source, lambda names: LINGBOT_POSES in names or "processed" in names, SEARCH_LEVELS
    ):
        if (folder / LINGBOT_POSES).is_file():
            yield _processed(folder, source)
        elif (folder / TRUTH).is_file():
            yield raw_sequence(folder, source, options)
        else:
            leave_out(NO_TRUTH, [relative_name(folder, source)], source, SEQUENCE)


@names_file("folder")
def raw_sequence(folder: Path, source: Path, options: Options) -> SequenceRecord:
    """One sequence as published; with the depth files that are there.

    Raises UserError when images or calibration are missing, or no image has a pose.
    """
    images_folder = _images_folder(folder, options.camera)
    listed = _timed_images(images_folder)
    times = np.array([time for time, _ in listed])
    poses, known = read_tum(folder / TRUTH).at(times, options.max_gap_s, interpolate=options.interpolate)
    rows = np.flatnonzero(known)
    where = images_folder.relative_to(folder).as_posix()
    leave_out(NO_POSE, [f"{where}/{listed[row][1]}" for row in np.flatnonzero(~known)], folder)
    if not len(rows):
        raise UserError(
            f"{images_folder} has no image within {options.max_gap_s} s of a pose of {TRUTH}; are they of one sequence?"
        )
    calibration = read_calibration(_calibration_path(folder, source, options), options.camera)
    names = [listed[row][1] for row in rows]
    height, width = read_image_size(images_folder / names[0])  # a camera's images have one size
    depth = _depth_files(folder, names, options)
    # pixel centres at integers stay there when an image is shrunk about its border
    scale = np.array([width / calibration.image_hw[1], height / calibration.image_hw[0]] * 2)
    shift = np.array([0, 0, 0.5, 0.5])
    num = len(names)
    return SequenceRecord(
        dataset="oxford_spires",
        sequence_id=relative_name(folder, source),
        split="test",
        root=folder,
        image=tuple(f"{where}/{name}" for name in names),
        image_size=np.tile((height, width), (num, 1)),
        timestamp=times[rows],
        depth=depth,
        depth_codec=DEPTH_CODEC if depth else "",
        camera_model="opencv_fisheye",
        intrinsics=np.tile((calibration.intrinsics + shift) * scale - shift, (num, 1)),
        distortion=np.tile(calibration.lens, (num, 1)),
        cam_from_world=inverted(poses[rows] @ calibration.base_from_cam),
        pixel_centre="integer",
        num_missing=len(listed) - num,
        is_metric=True,
        licence="CC BY-NC-SA 4.0",
        source="Oxford Spires",
    )


def _timed_images(folder: Path) -> list[tuple[float, str]]:
    """Times and names of the images, by time; those that are not named by a time are left out."""
    names = sorted(path.name for path in folder.iterdir() if is_image_name(path.name))
    leave_out(NO_TIME, [name for name in names if not is_number(Path(name).stem)], folder, IMAGE)
    return sorted((float(Path(name).stem), name) for name in names if is_number(Path(name).stem))


def depth_folder(output: Path, folder: Path, camera: str) -> Path:
    """Where `prepare` puts the depth of one sequence and camera."""
    return output / folder.name / camera


@names_file("path")
def read_calibration(path: Path, camera: str) -> Calibration:
    """Read a calibration folder or a sensor.yaml. Raises UserError naming the file that is missing or incomplete."""
    if path.is_dir():
        lens_file, rig_file = path / f"{camera}.yaml", path / "cam-lidar-imu.yaml"
        lens = read_yaml(lens_file)
        k = numbers(lens, "camera_matrix", (3, 3), lens_file)
        cam_from_lidar = numbers(read_yaml(rig_file).get(camera), "T_cam_lidar", (4, 4), rig_file)
        rigid(cam_from_lidar, "T_cam_lidar", rig_file)
        height, width = (int(numbers(lens, key, (), lens_file)) for key in ("image_height", "image_width"))
        distortion = numbers(lens, "distortion_coefficients", (4,), lens_file)
        base_from_lidar = _rigid(np.array(LIDAR_ON_BASE))
        return Calibration(
            k[[0, 1, 0, 1], [0, 1, 2, 2]],
            (height, width),
            distortion,
            base_from_lidar @ np.linalg.inv(cam_from_lidar),
        )
    sensor: Any = read_yaml(path).get("sensor")
    cameras = sensor.get("cameras") if isinstance(sensor, dict) else None
    number = int(camera[-1])
    if not isinstance(cameras, list) or len(cameras) <= number:
        raise UserError(f"{path} has no sensor.cameras for {camera}; give the development kit's sensor.yaml")
    lens = next((entry for entry in cameras if camera in str(entry.get("topic"))), cameras[number])
    height, width = (int(numbers(lens, key, (), path)) for key in ("image_height", "image_width"))
    cam_from_lidar = _rigid(numbers(lens, "T_cam_lidar_t_xyz_q_xyzw", (7,), path))
    base_from_lidar = _rigid(numbers(sensor, "T_base_lidar_t_xyz_q_xyzw", (7,), path))
    return Calibration(
        numbers(lens, "intrinsics", (4,), path),
        (height, width),
        numbers(lens, "extra_params", (4,), path),
        base_from_lidar @ np.linalg.inv(cam_from_lidar),
    )


def _rigid(translation_quaternion_xyzw: np.ndarray) -> np.ndarray:
    pose = pose_from_xyzw(translation_quaternion_xyzw[3:], translation_quaternion_xyzw[:3])
    return np.concatenate([pose, [[0.0, 0, 0, 1]]])


def _images_folder(folder: Path, camera: str) -> Path:
    for below in (f"raw/{camera}", f"raw/images/{camera}", f"images/{camera}"):
        if (folder / below).is_dir():
            return folder / below
    problem = (
        "unpack raw/images.zip there" if (folder / "raw" / "images.zip").is_file() else "download its images"
    )
    raise UserError(f"{folder} has no raw/{camera} or raw/images/{camera}; {problem}")


def _calibration_path(folder: Path, source: Path, options: Options) -> Path:
    if options.calibration is not None:
        return options.calibration.resolve()
    for above in (folder, *list(folder.parents)[:SEARCH_LEVELS], source):
        candidates = _below(above / "calibration", f"{options.camera}.yaml")
        candidates = [path.parent for path in candidates if (path.parent / "cam-lidar-imu.yaml").is_file()]
        candidates += _below(above / "calibration", "sensor.yaml")
        if candidates:
            return candidates[0]
    raise UserError(
        f"{folder}: no calibration/ with {options.camera}.yaml and cam-lidar-imu.yaml in it or above; download it, or "
        "give calibration=FOLDER"
    )


def _depth_files(folder: Path, names: list[str], options: Options) -> tuple[str, ...]:
    if options.depth is None:
        return ()
    where = depth_folder(options.depth.resolve(), folder, options.camera)
    relative = os.path.relpath(where, folder)
    files = [f"{Path(name).stem}.png" for name in names]
    found = tuple(f"{relative}/{file}" if (where / file).is_file() else "" for file in files)
    if not any(found):
        raise UserError(
            f"{where} holds no depth of {folder.name}; run `scal3r data prepare oxford_spires` first"
        )
    return found


@names_file("folder")
def _processed(folder: Path, source: Path) -> SequenceRecord:
    """A sequence as LingBot-Map processes it."""
    poses = read_table(folder / LINGBOT_POSES, 16, is_finite=False).reshape(-1, 4, 4)
    camera = read_table(folder / "intrinsics.txt", 6, num_rows=1)[0]
    images = files_by_number(folder / "images", r"(\d+)\.png")
    depths = files_by_number(folder / "depth", r"(\d+)\.npy") if (folder / "depth").is_dir() else {}
    kept = [n for n in sorted(images) if n < len(poses) and np.isfinite(poses[n]).all()]
    absent = [f"images/{n:06d}.png" for n in range(len(poses)) if n not in images]
    leave_out(NO_IMAGE, absent, folder)
    leave_out(NO_POSE, [f"images/{images[n]}" for n in sorted(set(images) - set(kept))], folder)
    if not kept:
        raise UserError(f"{folder}/images has no frame with a pose in {LINGBOT_POSES}; is it complete?")
    return SequenceRecord(
        dataset="oxford_spires",
        sequence_id=relative_name(folder, source),
        split="test",
        root=folder,
        image=tuple(f"images/{images[number]}" for number in kept),
        image_size=np.tile(camera[[5, 4]].astype(np.int64), (len(kept), 1)),
        timestamp=np.array(kept) / FRAMES_PER_SECOND,
        depth=tuple(f"depth/{depths[n]}" if n in depths else "" for n in kept) if depths else (),
        depth_codec="npy" if depths else "",
        camera_model="pinhole",
        intrinsics=np.tile(camera[:4], (len(kept), 1)),
        cam_from_world=inverted(poses[kept]),
        pixel_centre="integer",
        num_missing=len(poses) - len(kept),
        is_metric=True,
        licence="CC BY-NC-SA 4.0",
        source="Oxford Spires, processed by LingBot-Map",
    )


def _below(folder: Path, name: str) -> list[Path]:
    return found_below(folder, lambda other: other == name) if folder.is_dir() else []
