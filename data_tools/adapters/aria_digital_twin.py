"""Aria Digital Twin: people with Aria glasses in two scanned and modelled flats, as `scal3r data prepare` unpacks it.

The set is published as VRS recordings; preparing/aria_digital_twin.py unpacks them. Its layout, which this adapter
indexes: SEQUENCE/{rgb/%06d.jpg, depth/%06d.png, calibration.json, frames.txt}; SRC is the folder of sequences, or one
sequence. frames.txt: a line a frame that was recorded and has a pose: number, seconds, world_from_cam 3x4 row by row
(OpenCV axes, metres). calibration.json: image_size (height, width), parameters (15 of FISHEYE624, pixel centres at
integers), device_from_cam (3x4, for reference). Images and depth are as recorded: 1408 x 1408 through the fisheye lens,
lying on their side. Depth: uint16 millimetres, the z coordinate (not the ray, unlike Aria Synthetic Environments) at
each pixel of the distorted image, 0 invalid. Real recordings; depth and poses come from the models and motion capture.
Hands and, without the skeletons' depth, people are not in the depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.aria import CAMERA_MODEL, NUM_PARAMETERS, QUARTER_TURNS, AriaCamera
from scal3r_data_tools.formats.files import files_by_number
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import UserError
from scal3r_train.data.io.left_out import NO_IMAGE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

CALIBRATION_FILE, FRAMES_FILE = "calibration.json", "frames.txt"
RECORDING = "video.vrs"
PACKED = Cause("not unpacked yet", "run `scal3r data prepare aria_digital_twin`")


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all prepared sequences, by name."""
    source = source.resolve()
    folders = sorted(path.parent for path in [*source.glob(FRAMES_FILE), *source.glob(f"*/{FRAMES_FILE}")])
    if not folders and (
        recording := next(iter([*source.glob(RECORDING), *source.glob(f"*/{RECORDING}")]), None)
    ):
        raise UserError(
            f"{recording} is a recording, not yet unpacked; run `scal3r data prepare aria_digital_twin {source} OUT`"
        )
    packed = [path.parent for path in [*source.glob(RECORDING), *source.glob(f"*/{RECORDING}")]]
    leave_out(PACKED, [folder.name for folder in packed if folder not in folders], source, SEQUENCE)
    for folder in folders:
        yield _sequence(folder)


@names_file("path")
def read_calibration(path: Path) -> AriaCamera:
    """Read calibration.json. Raises UserError when it is missing or not as `prepare` writes it."""
    document = read_json(path)
    try:
        height, width = (int(side) for side in entry(document, "image_size", path))
        parameters = np.array(entry(document, "parameters", path), np.float64).reshape(NUM_PARAMETERS)
        device_from_cam = np.array(entry(document, "device_from_cam", path), np.float64).reshape(3, 4)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not as `scal3r data prepare` writes it: {error}") from None
    return AriaCamera((height, width), parameters, device_from_cam)


@names_file("folder")
def _sequence(folder: Path) -> SequenceRecord:
    camera = read_calibration(folder / CALIBRATION_FILE)
    table = read_table(folder / FRAMES_FILE, 14)
    images = files_by_number(folder / "rgb", r"(\d+)\.jpg")
    depths = files_by_number(folder / "depth", r"(\d+)\.png") if (folder / "depth").is_dir() else {}
    table = table[np.argsort(table[:, 0])]
    num_listed = len(table)
    is_there = np.array([int(number) in images for number in table[:, 0]], bool)
    leave_out(NO_IMAGE, [f"rgb/{int(number):06d}.jpg" for number in table[~is_there, 0]], folder)
    table = table[is_there]
    numbers = table[:, 0].astype(int).tolist()
    if not numbers:
        raise UserError(
            f"{folder}: none of the {num_listed} frames of {FRAMES_FILE} has an image; prepare it again"
        )
    num = len(numbers)
    depth = tuple(f"depth/{depths[number]}" if number in depths else "" for number in numbers)
    return SequenceRecord(
        dataset="aria_digital_twin",
        sequence_id=folder.name,
        root=folder,
        image=tuple(f"rgb/{images[number]}" for number in numbers),
        image_size=np.tile(camera.image_hw, (num, 1)),
        timestamp=table[:, 1],
        depth=depth if any(depth) else (),
        depth_codec="uint16_mm" if any(depth) else "",
        camera_model=CAMERA_MODEL,
        intrinsics=np.tile(camera.intrinsics(camera.image_hw), (num, 1)),
        distortion=np.tile(camera.parameters[3:], (num, 1)),
        cam_from_world=inverted(table[:, 2:].reshape(-1, 3, 4)),
        pixel_centre="integer",
        quarter_turns=QUARTER_TURNS,
        num_missing=num_listed - num,
        is_metric=True,
        is_dynamic=True,
        licence="Aria Digital Twin licence, research only",
        source="Aria Digital Twin",
    )
