"""TUM RGB-D: a hand-held Kinect, colour and registered depth, poses by motion capture.

Layout: rgbd_dataset_freiburgN_NAME/{rgb/TIMESTAMP.png, depth/TIMESTAMP.png, rgb.txt, depth.txt, groundtruth.txt}; SRC
may be one of them or a folder of them. rgb.txt and depth.txt list timestamp and file name; without them the folders
are listed. groundtruth.txt: timestamp tx ty tz qx qy qz qw of world_from_cam, OpenCV axes, metres, about 100 Hz. All
clocks are seconds since 1970 but tick apart: an image gets the pose and the depth nearest in time; images without pose
count as missing. Sequences without groundtruth.txt (the validation ones) are indexed without poses. Depth is uint16,
1/5000 m, pixel for pixel that of the colour image, whose lens is not undone: freiburg 1 and 2 are distorted (OpenCV
coefficients k1 k2 p1 p2 k3), 3 is published undistorted. Pixel centres are at integers (calibrated with OpenCV).
Which calibration is told by the folder's name (freiburgN or frN), else by an option.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import Names, folders_where, relative_name
from scal3r_data_tools.formats.poses import inverted, paired, read_tum
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import is_image_name
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import SEPARATOR, as_number, is_number, read_text_file

# fx fy cx cy and lens, as the benchmark publishes them for 640x480; "ros" is its advice for ignoring all calibration.
CAMERAS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
    "ros": ((525.0, 525.0, 319.5, 239.5), ()),
}
DYNAMIC = re.compile("walking|sitting|person")
MAX_DEPTH_M = 10.0
MAX_DEPTH_GAP_S = 0.02


class Options(StrictModel):
    """What the files do not say."""

    camera: Literal["auto", "freiburg1", "freiburg2", "freiburg3", "ros"] = Field(
        "auto", description="Calibration; auto: by freiburgN or frN in the folder's name."
    )
    max_gap_s: float = Field(0.02, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        False, description="Interpolate between two poses instead of taking the nearest."
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences at most two levels below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: "rgb" in names, 2):
        yield _sequence(folder, source, options)


@names_file("folder")
def _sequence(folder: Path, source: Path, options: Options) -> SequenceRecord:
    camera = _camera(folder, options)
    times, images, absent = _timed_files(folder, "rgb")
    num_listed = len(images) + len(absent)
    leave_out(NO_IMAGE, absent, folder)
    cam_from_world = None
    if (folder / "groundtruth.txt").is_file():
        truth = read_tum(folder / "groundtruth.txt")
        poses, known = truth.at(times, options.max_gap_s, interpolate=options.interpolate)
        unposed = [image for image, found in zip(images, known, strict=True) if not found]
        leave_out(NO_POSE, unposed, folder)
        times, images = times[known], [image for image, found in zip(images, known, strict=True) if found]
        cam_from_world = inverted(poses[known])
    if not images:
        raise UserError(
            f"{folder} has no image within {options.max_gap_s} s of a pose; are rgb/ and groundtruth.txt of one "
            "sequence?"
        )
    depth: list[str] = []
    if (folder / "depth").is_dir():
        depth_times, depth_files, _ = _timed_files(folder, "depth")
        partners = paired(times, depth_times, MAX_DEPTH_GAP_S)
        depth = [depth_files[partner] if partner >= 0 else "" for partner in partners]
    intrinsics, lens = CAMERAS[camera]
    num = len(images)
    return SequenceRecord(
        dataset="tum",
        sequence_id=relative_name(folder, source),
        split="test",
        root=folder,
        image=tuple(images),
        # every image of the set is 640x480
        image_size=np.tile(read_image_size(folder / images[0]), (num, 1)),
        timestamp=times,
        depth=tuple(depth) if any(depth) else (),
        depth_codec="uint16_5000ths" if any(depth) else "",
        camera_model="opencv" if lens else "pinhole",
        intrinsics=np.tile(intrinsics, (num, 1)),
        distortion=np.tile(lens, (num, 1)) if lens else None,
        cam_from_world=cam_from_world,
        pixel_centre="integer",
        num_missing=num_listed - num,
        is_metric=True,
        is_dynamic=DYNAMIC.search(folder.name) is not None,
        max_depth=MAX_DEPTH_M,
        licence="CC BY 4.0",
        source="TUM RGB-D benchmark",
    )


def _camera(folder: Path, options: Options) -> str:
    if options.camera != "auto":
        return options.camera
    number = re.search(r"(?:freiburg|fr)([123])", folder.name)
    if number is None:
        raise UserError(
            f"{folder}: its name has no freiburg1, 2 or 3, which tells the camera; give camera=freiburg1 "
            "(or 2, 3, ros)"
        )
    return f"freiburg{number[1]}"


def _timed_files(folder: Path, kind: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Times [N], sorted, and names of the files of rgb or depth that are there, and names of those that are not."""
    listing = folder / f"{kind}.txt"
    if listing.is_file():
        lines = read_text_file(listing).splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        rows = [SEPARATOR.split(line, maxsplit=1) for line in lines]
        rows = rows[1:] if rows and not is_number(rows[0][0]) else rows  # a heading
        bad = next((line for line, row in zip(lines[-len(rows) :], rows, strict=True) if len(row) != 2), None)
        if bad is not None:
            raise UserError(
                f"{listing} must hold a time and a file name in each line, not '{bad[:60]}'; download it again"
            )
        texts, names = [row[0] for row in rows], [row[1] for row in rows]
    else:
        names = sorted(
            f"{kind}/{path.name}" for path in (folder / kind).iterdir() if is_image_name(path.name)
        )
        texts = [Path(name).stem for name in names]
    try:
        listed = sorted({as_number(text): name for text, name in zip(texts, names, strict=True)}.items())
    except ValueError as error:
        raise UserError(
            f"{folder}/{kind}: {error}; its files must be named by their time in seconds"
        ) from None
    there = Names(folder)
    found = [(time, there.find(name)) for time, name in listed]
    absent = [name for (_, name), (_, file) in zip(listed, found, strict=True) if not file]
    found = [(time, file) for time, file in found if file]
    return np.array([time for time, _ in found]), [file for _, file in found], absent
