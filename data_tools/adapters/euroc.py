"""EuRoC MAV and others in ASL's format: a drone's grey stereo camera, poses by motion capture or laser tracker.

Layout: NAME/mav0/{cam0/{data.csv, sensor.yaml, data/TIME_NS.png}, state_groundtruth_estimate0/{data.csv,
sensor.yaml}}; SRC may be a sequence or a folder of them. cam0/data.csv lists time (nanoseconds) and file name; the
ground truth time, position and quaternion (w x y z) of world_from_sensor, metres, 200 Hz. T_BS of a sensor.yaml is
body_from_sensor, so the camera is where world_from_truth @ inverse(T_BS of truth) @ T_BS of camera says, with OpenCV
axes. Intrinsics are fu fv cu cv, pixel centres at integers; distortion is radial-tangential (k1 k2 p1 p2) or
equidistant (TUM VI,
whose ground truth is mav0/mocap0). 20 Hz, no depth. Images before and after the ground truth count as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import Names, folders_where, relative_name
from scal3r_data_tools.formats.poses import Trajectory, inverted, rigid
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_data_tools.formats.yaml_files import numbers, read_yaml
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, leave_out, note_once
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import SEPARATOR, is_number, read_text_file

TRUTHS = ("state_groundtruth_estimate0", "mocap0")  # EuRoC's, TUM VI's
LENSES = {
    "radial-tangential": "opencv",
    "radtan": "opencv",
    "equidistant": "opencv_fisheye",
    "none": "pinhole",
}
NUM_POSE_COLUMNS = 8  # EuRoC's velocity and biases follow


class Options(StrictModel):
    """Which camera, and how poses are matched."""

    camera: Literal["cam0", "cam1"] = Field("cam0", description="Which camera, left or right.")
    max_gap_s: float = Field(0.01, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        False, description="Interpolate between two poses instead of taking the nearest."
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences at most three levels below the folder, ordered by path."""
    source = source.resolve()
    source = source.parent if source.name == "mav0" else source
    for folder in folders_where(source, lambda names: "mav0" in names, 3):
        yield _sequence(folder, source, options)


@names_file("folder")
def _sequence(folder: Path, source: Path, options: Options) -> SequenceRecord:
    camera_folder = folder / "mav0" / options.camera
    sensor_file = camera_folder / "sensor.yaml"
    sensor = read_yaml(sensor_file)
    times_ns, images = _listed_images(camera_folder / "data.csv")
    there = Names(camera_folder / "data")
    found = [there.find(image) for image in images]
    times = times_ns / 1e9
    cam_from_world = None
    known = np.array([bool(name) for name in found], bool)
    leave_out(NO_IMAGE, [image for image, name in zip(images, found, strict=True) if not name], camera_folder)
    truth = next((path for name in TRUTHS if (path := folder / "mav0" / name / "data.csv").is_file()), None)
    if truth is None:
        line = f"{folder} has no poses: none of {', '.join(TRUTHS)} holds a data.csv"
        note_once("no poses", line)
    else:
        world_from_body, has_pose = _world_from_body(truth.parent, times, options)
        body_from_cam = rigid(numbers(sensor, "T_BS", (4, 4), sensor_file), "T_BS", sensor_file)
        leave_out(NO_POSE, [found[row] for row in np.flatnonzero(known & ~has_pose)], camera_folder / "data")
        known &= has_pose
        cam_from_world = inverted(world_from_body[known] @ body_from_cam)
    kept = [f"data/{found[row]}" for row in np.flatnonzero(known)]
    if not kept:
        raise UserError(
            f"{camera_folder} has no image that is there and within {options.max_gap_s} s of a pose; is the sequence "
            "complete?"
        )
    model = str(sensor.get("distortion_model", "none"))
    if model not in LENSES:
        raise UserError(
            f"{sensor_file}: distortion_model '{model}' is unknown; it must be one of {', '.join(LENSES)}"
        )
    num = len(kept)
    lens = (
        numbers(sensor, "distortion_coefficients", (-1,), sensor_file) if LENSES[model] != "pinhole" else None
    )
    return SequenceRecord(
        dataset="euroc",
        sequence_id=relative_name(folder, source),
        split="test",
        root=camera_folder,
        image=tuple(kept),
        # a camera's images have one size
        image_size=np.tile(read_image_size(camera_folder / kept[0]), (num, 1)),
        timestamp=times[known],
        camera_model=LENSES[model],
        intrinsics=np.tile(numbers(sensor, "intrinsics", (4,), sensor_file), (num, 1)),
        distortion=None if lens is None else np.tile(lens, (num, 1)),
        cam_from_world=cam_from_world,
        pixel_centre="integer",
        num_missing=len(images) - num,
        is_metric=True,
        licence="in copyright, non-commercial use permitted (ETH Zurich)",
        source="EuRoC MAV",
    )


def _listed_images(path: Path) -> tuple[np.ndarray, list[str]]:
    """Times [N] int64 nanoseconds, sorted, and file names of a camera's data.csv."""
    try:
        lines = read_text_file(path).splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        rows = [SEPARATOR.split(line, maxsplit=1) for line in lines]
        rows = rows[1:] if rows and not is_number(rows[0][0]) else rows  # a heading
        listed = sorted({int(time): name for time, name in rows}.items())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; it must hold time,file in each line") from None
    return np.array([time for time, _ in listed], np.int64), [name for _, name in listed]


def _world_from_body(folder: Path, times: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Poses of the body [N, 4, 4] at some times [N], and which of them are known."""
    path = folder / "data.csv"
    table = read_table(path, None, separator=",", is_finite=False)
    if table.shape[1] < NUM_POSE_COLUMNS:
        raise UserError(
            f"{path} has {table.shape[1]} columns; time, position and quaternion are {NUM_POSE_COLUMNS}"
        )
    truth = Trajectory.of(table[:, 0] / 1e9, table[:, 1:4], np.roll(table[:, 4:8], -1, axis=1), path)
    world_from_sensor, known = truth.at(times, options.max_gap_s, interpolate=options.interpolate)
    sensor_file = folder / "sensor.yaml"
    body_from_sensor = np.eye(4)
    if sensor_file.is_file():
        body_from_sensor = rigid(
            numbers(read_yaml(sensor_file), "T_BS", (4, 4), sensor_file), "T_BS", sensor_file
        )
    last = np.broadcast_to([0.0, 0, 0, 1], (len(times), 1, 4))
    return np.concatenate([world_from_sensor, last], 1) @ np.linalg.inv(body_from_sensor), known
