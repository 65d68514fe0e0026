"""KITTI odometry: a car's drives, the left colour camera.

Layout: sequences/NN/{image_2/%06d.png, calib.txt, times.txt}, poses/NN.txt for 00-10 (3x4 world_from_cam0 row by row,
OpenCV axes, metres, the first is the identity); SRC may be the whole, or one folder sequences/NN. calib.txt holds
P0..P3 = K [R | t] of the rectified cameras: camera 2 is moved from camera 0 by K^-1 P2[:, 3]. Pixel centres are at
integers (the development kit takes K from an OpenCV-like calibration). Times are seconds; there is no depth. Images
may be fewer than poses: the others are counted as missing. Sequences without poses (11-21) are indexed without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import files_by_number, relative_name
from scal3r_data_tools.formats.intrinsics_files import projection_parts
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

NO_COLOUR = Cause("without image_2", "download the colour images")


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all sequences below the folder, by name."""
    source = source.resolve()
    for calibration in found_below(source, lambda name: name == "calib.txt"):
        if (calibration.parent / "image_2").is_dir():
            yield _sequence(calibration.parent)
        else:
            leave_out(NO_COLOUR, [relative_name(calibration.parent, source)], source, SEQUENCE)


@dataclass(frozen=True)
class Camera2:
    """The left colour camera.

    Attributes:
        intrinsics: [4] fx fy cx cy.
        offset: [3] translation of cam2_from_cam0 in metres; the rectified cameras do not differ in rotation.
    """

    intrinsics: np.ndarray
    offset: np.ndarray


def camera_2(path: Path) -> Camera2:
    """Read P2 of a calib.txt, whose lines are a name, a colon and numbers. Raises UserError when there is none."""
    try:
        lines = read_text_file(path).splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        matrix = np.array(found["P2"].split(), np.float64).reshape(3, 4)
    except (OSError, KeyError, ValueError):
        raise UserError(
            f"{path} has no line 'P2: ' with 12 numbers; is this the dataset's own layout?"
        ) from None
    return Camera2(*projection_parts(matrix, path, "P2"))


@names_file("folder")
def _sequence(folder: Path) -> SequenceRecord:
    camera = camera_2(folder / "calib.txt")
    images = files_by_number(folder / "image_2", r"(\d+)\.(?:png|jpg|jpeg)")
    times = read_table(folder / "times.txt", 1)[:, 0]
    pose_file = folder.parent.parent / "poses" / f"{folder.name}.txt"
    poses = read_table(pose_file, 12).reshape(-1, 3, 4) if pose_file.is_file() else None
    num_listed = len(times) if poses is None else len(poses)
    numbers = [number for number in sorted(images) if number < num_listed]
    if not numbers:
        raise UserError(f"{folder}/image_2 holds no frame below {num_listed}, the number of poses or times")
    leave_out(
        NO_IMAGE,
        [f"image_2/{number:06d}.png" for number in sorted(set(range(num_listed)) - set(images))],
        folder,
    )
    beyond = [f"image_2/{images[number]}" for number in sorted(images) if number >= num_listed]
    leave_out(NO_POSE, beyond, folder)
    if numbers[-1] >= len(times):
        raise UserError(f"{folder}/times.txt has {len(times)} times, frame {numbers[-1]} has none")
    cam_from_world = None
    if poses is not None:
        cam_from_world = inverted(poses[numbers])
        cam_from_world[:, :, 3] += camera.offset
    return SequenceRecord(
        dataset="kitti_odometry",
        sequence_id=folder.name,
        split="test",
        root=folder,
        image=tuple(f"image_2/{images[number]}" for number in numbers),
        image_size=np.tile(read_image_size(folder / "image_2" / images[numbers[0]]), (len(numbers), 1)),
        timestamp=times[numbers],
        camera_model="pinhole",
        intrinsics=np.tile(camera.intrinsics, (len(numbers), 1)),
        cam_from_world=cam_from_world,
        pixel_centre="integer",
        num_missing=num_listed - len(numbers),
        is_metric=True,
        is_dynamic=True,
        licence="CC BY-NC-SA 3.0",
        source="KITTI odometry benchmark",
    )
