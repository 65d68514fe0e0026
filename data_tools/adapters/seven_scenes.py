"""Microsoft 7-Scenes.

Layout: frame-%06d.{color.png|jpg, depth.png, pose.txt} in SCENE/seq-XX, with SCENE/TestSplit.txt naming test
sequences; a scene, a single sequence folder, or a folder of scenes may be given. Poses are 4x4 world_from_cam, OpenCV
axes, metres; depth is uint16 millimetres with 0 and 65535 invalid, and may be missing for some frames. Colour and depth
images are used as if from one camera, though published colour is a few pixels off. Intrinsics: camera-intrinsics.txt
(3x3) of the sequence or scene, else the data set's own advice for the Kinect, f = 585 at 640x480.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import files_by_number
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import cam_from_world, read_table
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

COLOUR = re.compile(r"frame-\d+\.color\.(?:png|jpg|jpeg)", re.IGNORECASE)
KINECT = (585.0, 585.0, 320.0, 240.0)
FRAMES_PER_SECOND = 30.0
MAX_DEPTH_M = 10.0


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all sequences in or below the folder, ordered by path."""
    source = source.resolve()
    for folder in sorted(
        {path.parent for path in found_below(source, lambda name: COLOUR.fullmatch(name) is not None)}
    ):
        yield _sequence(source, folder)


@names_file("folder")
def _sequence(source: Path, folder: Path) -> SequenceRecord:
    images = files_by_number(folder, r"frame-(\d+)\.color\.(?:png|jpg|jpeg)")
    depths = files_by_number(folder, r"frame-(\d+)\.depth\.png")
    poses = files_by_number(folder, r"frame-(\d+)\.pose\.txt")
    tables = {number: _pose(folder / poses[number]) for number in sorted(images) if number in poses}
    numbers = [number for number, table in tables.items() if np.isfinite(table).all()]
    if not numbers:
        first = images[min(images)]
        raise UserError(f"{folder}: no image ({first} for one) has a finite pose in frame-NNNNNN.pose.txt")
    absent = [f"frame-{number:06d}.color.png" for number in sorted(set(poses) - set(images))]
    leave_out(NO_IMAGE, absent, folder)
    leave_out(NO_POSE, [images[number] for number in sorted(set(images) - set(numbers))], folder)
    num = len(numbers)
    return SequenceRecord(
        dataset="seven_scenes",
        sequence_id=folder.name if folder == source else folder.relative_to(source).as_posix(),
        split=_split(folder),
        root=folder,
        image=tuple(images[number] for number in numbers),
        depth=tuple(depths.get(number, "") for number in numbers) if depths else (),
        depth_codec="uint16_mm" if depths else "",
        camera_model="pinhole",
        intrinsics=np.tile(_intrinsics(folder), (num, 1)),
        cam_from_world=cam_from_world(np.stack([tables[number] for number in numbers])[:, :3]),
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        # every image of the set has the size of the first
        image_size=np.tile(read_image_size(folder / images[numbers[0]]), (num, 1)),
        num_missing=len(absent) + len(images) - num,
        is_metric=True,
        max_depth=MAX_DEPTH_M,
        licence="Microsoft Research, non-commercial",
        source="7-Scenes",
    )


def _pose(path: Path) -> np.ndarray:
    """world_from_cam [4, 4]; not finite where tracking was lost."""
    return read_table(path, 4, num_rows=4, is_finite=False)


def _intrinsics(folder: Path) -> tuple[float, ...]:
    for path in (folder / "camera-intrinsics.txt", folder.parent / "camera-intrinsics.txt"):
        if path.is_file():
            matrix = read_table(path, 3, num_rows=3)
            return matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    return KINECT


def _split(folder: Path) -> str:
    """`test` when the scene's TestSplit.txt lists this sequence (as `sequence3` for seq-03)."""
    listing, number = folder.parent / "TestSplit.txt", re.fullmatch(r"seq-(\d+)", folder.name)
    if number is None or not listing.is_file():
        return "train"
    tests = re.findall(r"sequence\s*(\d+)", read_text_file(listing))
    return "test" if int(number[1]) in map(int, tests) else "train"
