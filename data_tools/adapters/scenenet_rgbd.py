"""SceneNet RGB-D: random rooms, rendered with a handheld-like camera, one frame a second.

Layout: train/N/TRAJECTORY and val/0/TRAJECTORY with {photo/K.jpg, depth/K.png, instance/K.png}, K = 0, 25, 50, ...;
train_protobufs/scenenet_rgbd_train_N.pb and scenenet_rgbd_val.pb. SRC is the folder that holds these. A .pb file is a
protocol buffer (scenenet.proto of the set's repository); what is read of it, with field numbers:
Trajectories {1 repeated Trajectory}; Trajectory {3 repeated View, 4 text render_path, such as 0/223}; View {1 int
frame_num, 2 Pose shutter_open, 3 Pose shutter_close}; Pose {1 Position camera, 2 Position lookat, 3 float timestamp};
Position {1, 2, 3 float x y z}. The wire format: a message is a run of fields, each a key (field number and wire type)
and a value: 0 variable-length integer, 1 eight bytes, 2 a length and as many bytes (texts, messages), 5 four bytes.
Fields may come in any order and repeat; those that are not known are skipped by their wire type.

The camera is at the mean of both positions and looks at the mean of both points; world y is up, the camera does not
roll. Metres, seconds. All images are 320 x 240 with fields of view of 60 (horizontally) and 45 degrees (vertically; the
paper's 40 is a typo), so pixels are not square; pixel centres are taken to be at half integers. Depth: uint16
millimetres along the ray, 0 = nothing. Trajectories that are not there (the training set comes in 17 parts) are
skipped, photos of a trajectory that are not there count as missing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import present
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_file_bytes

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
HEIGHT, WIDTH = 240, 320
FX, FY = WIDTH / 2 / math.tan(math.radians(30)), HEIGHT / 2 / math.tan(math.radians(22.5))
UP = np.array([0.0, 1.0, 0.0])
MIN_LENGTH = 1e-9
NO_PHOTOS = Cause("whose photos are not here")


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Return field numbers and values: integers, or the raw bytes of all else. Raises ValueError when it is cut off."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in (FIXED_64, FIXED_32):
            length = 8 if kind == FIXED_64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {place}")
        if place + length > len(message):
            raise ValueError("a field goes beyond the end")
        yield number, message[place : place + length]
        place += length


def all_messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """Return the repeated messages of one field. Raises ValueError as `fields`."""
    for found, value in fields(message):
        if found == number:
            yield _bytes(value)


def message_at(message: memoryview, number: int) -> memoryview:
    """Return the message or text of one field; the last one counts, an empty one when there is none."""
    return next(iter([*all_messages(message, number)][-1:]), memoryview(b""))


def integer_at(message: memoryview, number: int) -> int:
    """Return the integer of one field, 0 when there is none (what is zero may be left out)."""
    values = [value for found, value in fields(message) if found == number and isinstance(value, int)]
    return values[-1] if values else 0


def float_at(message: memoryview, number: int) -> float:
    """Return the 4-byte float of one field, 0 when there is none."""
    data = bytes(message_at(message, number))
    if not data:
        return 0.0
    if len(data) != 4:
        raise ValueError(f"field {number} is no 4-byte float")
    return float(struct.unpack("<f", data)[0])


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("an integer where a message is expected")
    return value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("an integer goes beyond the end")


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all trajectories that are there, by protobuf file and their order in it."""
    source = source.resolve()
    for path in sorted([*source.glob("*.pb"), *source.glob("*/*.pb")], key=_natural):
        for trajectory in _trajectories(path):
            record = _sequence(source, path, trajectory)
            if record is not None:
                yield record


def _natural(path: Path) -> tuple[str, int, str]:
    """Folder, number at the end of the name, name."""
    digits = "".join(character for character in path.stem if character.isdecimal())
    return str(path.parent), int(digits or 0), path.name


@names_file("path")
def _trajectories(path: Path) -> Iterator[memoryview]:
    try:
        yield from all_messages(memoryview(read_file_bytes(path)), 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as SceneNet's protobuf: {error}") from None


@names_file("path")
def _sequence(source: Path, path: Path, trajectory: memoryview) -> SequenceRecord | None:
    try:
        render_path = bytes(message_at(trajectory, 4)).decode("utf-8")
        views = list(all_messages(trajectory, 3))
        numbers = [integer_at(view, 1) for view in views]
        ends = np.array([[_pose(message_at(view, end)) for end in (2, 3)] for view in views])
    except ValueError as error:
        raise UserError(f"{path} cannot be read as SceneNet's protobuf: {error}") from None
    split = "val" if "val" in path.stem else "train"
    folder = f"{split}/{render_path}"
    photos, depths = ([f"{folder}/{kind}" for kind in _names(what, numbers)] for what in ("photo", "depth"))
    there = present(source, [*photos, *depths])
    middle = ends.mean(1) if views else np.empty((0, 7))
    poses = cam_from_world(middle[:, :3], middle[:, 3:6])
    good = [i for i in range(len(views)) if photos[i] in there and np.isfinite(poses[i]).all()]
    if not good:
        leave_out(NO_PHOTOS, [folder], source, SEQUENCE)
        return None
    leave_out(NO_IMAGE, [photo for photo in photos if photo not in there], source)
    unposed = [photos[i] for i in range(len(views)) if photos[i] in there and not np.isfinite(poses[i]).all()]
    leave_out(NO_POSE, unposed, source)
    depth = tuple(depths[i] if depths[i] in there else "" for i in good)
    return SequenceRecord(
        dataset="scenenet_rgbd",
        sequence_id=folder,
        split=split,
        root=source,
        image=tuple(photos[i] for i in good),
        image_size=np.tile([HEIGHT, WIDTH], (len(good), 1)),
        timestamp=middle[good, 6],
        depth=depth if any(depth) else (),
        depth_codec="uint16_mm_ray" if any(depth) else "",
        camera_model="pinhole",
        intrinsics=np.tile([FX, FY, WIDTH / 2, HEIGHT / 2], (len(good), 1)),
        cam_from_world=poses[good],
        num_missing=len(views) - len(good),
        is_metric=True,
        is_synthetic=True,
        licence="SceneNet RGB-D: its tools are GPL, its objects ShapeNet's (non-commercial)",
        source="SceneNet RGB-D",
    )


def cam_from_world(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Poses [S, 3, 4] of cameras at [S, 3] that look at [S, 3] without roll; NaN where that says nothing."""
    forward = target - position
    right = np.cross(forward, UP)
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward], 1)
    length = np.linalg.norm(rotation, axis=2, keepdims=True)
    rotation = rotation / np.where(length > MIN_LENGTH, length, np.nan)
    return np.concatenate([rotation, -rotation @ position[:, :, None]], 2)


def _pose(pose: memoryview) -> list[float]:
    """Position, point looked at, seconds."""
    points = [message_at(pose, number) for number in (1, 2)]
    return [float_at(point, axis) for point in points for axis in (1, 2, 3)] + [float_at(pose, 3)]


def _names(kind: str, numbers: list[int]) -> list[str]:
    suffix = {"photo": "jpg", "depth": "png"}[kind]
    return [f"{kind}/{number}.{suffix}" for number in numbers]
