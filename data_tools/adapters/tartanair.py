"""TartanAir, version 1 and 2: drones' flights through game engine worlds.

Layout of version 1: ENV/{Easy,Hard}/P%03d/{image_left/%06d_left.png, depth_left/%06d_left_depth.npy, pose_left.txt};
of version 2: ENV/Data_{easy,hard}/P%03d/{image_lcam_front/%06d_lcam_front.png, depth_lcam_front/
%06d_lcam_front_depth.png, pose_lcam_front.txt}. SRC may be the whole or anything in it; archives that unpack into one
more folder ENV/ENV do no harm. pose_*.txt has one line a frame: x y z qx qy qz qw of world_from_cam, metres, both with
NED axes (x forward, y right, z down). Cameras are pinholes of 90 degrees horizontally: f = W / 2, principal point in
the image's centre (320 240 at 640 x 480; version 2 writes 319.5 for pixel centres at integers).
Depth is z in metres, float32: .npy, or the four bytes of a number as B G R A of an 8-bit PNG; 1000 and more is sky.
No times; 10 Hz is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.poses import NED_FROM_OPENCV, inverted, opencv_world_from_cam, pose_from_xyzw
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import StrictModel
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_FRAMES, NO_IMAGE, NO_POSE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 10.0
MAX_DEPTH_PERCENTILE = 98.0
DEPTH_CODECS = {".npy": "npy_sky_1000", ".png": "float32_png_sky_1000"}


class Options(StrictModel):
    """Which cameras."""

    cameras: tuple[str, ...] = Field(
        ("left", "lcam_front"), min_length=1, description="Names after image_ and pose_; pinholes only."
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all trajectories below the folder and the cameras asked for, ordered by path."""
    source = source.resolve()
    wanted = {f"pose_{camera}.txt" for camera in options.cameras}
    for folder in folders_where(source, lambda names: bool(wanted & names), 5):
        for camera in options.cameras:
            if not (folder / f"pose_{camera}.txt").is_file():
                continue
            if not (folder / f"image_{camera}").is_dir():
                leave_out(NO_FRAMES, [f"{relative_name(folder, source)}/{camera}"], source, SEQUENCE)
            else:
                record = _sequence(folder, source, camera)
                if record is not None:
                    yield record


@names_file("folder")
def _sequence(folder: Path, source: Path, camera: str) -> SequenceRecord | None:
    """One flight of one camera, None when none of its frames is there."""
    table = read_table(folder / f"pose_{camera}.txt", 7, is_finite=False)
    image_folder, depth_folder = folder / f"image_{camera}", folder / f"depth_{camera}"
    images = files_by_number(image_folder, rf"(\d+)_{camera}\.(?:png|jpg)")
    usable = np.isfinite(table).all(1) & (np.linalg.norm(table[:, 3:], axis=1) > 0.5)
    numbers = [number for number in sorted(images) if number < len(table) and usable[number]]
    image_name = f"_{camera}.png"
    absent = [f"{number:06d}{image_name}" for number in range(len(table)) if number not in images]
    leave_out(NO_IMAGE, absent, image_folder)
    leave_out(NO_POSE, [images[number] for number in sorted(set(images) - set(numbers))], image_folder)
    if not numbers:
        leave_out(NO_FRAMES, [f"{relative_name(folder, source)}/{camera}"], source, SEQUENCE)
        return None
    poses = pose_from_xyzw(table[numbers, 3:], table[numbers, :3])
    depths, codec = _depths(depth_folder, camera)
    height, width = read_image_size(image_folder / images[numbers[0]])
    name = relative_name(folder, source)
    return SequenceRecord(
        dataset="tartanair",
        sequence_id=name if camera in ("left", "lcam_front") else f"{name}/{camera}",
        root=folder,
        image=tuple(f"image_{camera}/{images[number]}" for number in numbers),
        image_size=np.tile((height, width), (len(numbers), 1)),  # one size in a whole flight
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(f"depth_{camera}/{depths[n]}" if n in depths else "" for n in numbers) if depths else (),
        depth_codec=codec,
        camera_model="pinhole",
        intrinsics=np.tile((width / 2, width / 2, width / 2, height / 2), (len(numbers), 1)),
        cam_from_world=inverted(opencv_world_from_cam(poses, NED_FROM_OPENCV)),
        num_missing=len(table) - len(numbers),
        is_metric=True,
        is_synthetic=True,
        max_depth_percentile=MAX_DEPTH_PERCENTILE,
        licence="CC BY 4.0",
        source="TartanAir",
    )


def _depths(folder: Path, camera: str) -> tuple[dict[int, str], str]:
    """Depth files by frame and their codec; none and "" when they were not downloaded."""
    for suffix, codec in DEPTH_CODECS.items():
        found = files_by_number(folder, rf"(\d+)_{camera}_depth\{suffix}") if folder.is_dir() else {}
        if found:
            return found, codec
    return {}, ""
