"""VBR, a Vision Benchmark in Rome: long walks and drives with a stereo camera, poses from LiDAR and RTK-GPS, metres.

Layout as its development kit leaves it, `vbr download` and `vbr convert kitti`: NAME/{vbr_calib.yaml, NAME_gt.txt} and,
in NAME, beside it, or in parts NAME_00_kitti, NAME_01_kitti, .., a folder with camera_left/{data/%010d.png,
timestamps.txt}, a time a line (ISO 8601 to the nanosecond, or seconds since 1970). NAME_gt.txt is a TUM file, seconds,
world_from_base. vbr_calib.yaml has cam_l and cam_r with resolution (width, height), intrinsics (fx fy cx cy),
distortion_coeffs (k1 k2 p1 p2) and T_b = base_from_cam (OpenCV axes). An image gets the pose between its two neighbours
in time; images without one count as missing.

Layout as others process it (Junyi42/vbr_processed on the Hub): NAME_processed_aligned/{rgb/, intrinsics.txt (3x3)} and
processed_gt/NAME_gt.txt, or both in one folder NAME: one line of the TUM file an image, in order, world_from_cam.

Sequences called test have no public ground truth and are indexed without poses. Pixel centres are taken to be at
integers (calibrated with OpenCV's model). No depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where
from scal3r_data_tools.formats.intrinsics_files import read_intrinsics
from scal3r_data_tools.formats.pose_files import read_pose_table
from scal3r_data_tools.formats.poses import inverted, read_tum, rigid
from scal3r_data_tools.formats.text import named_text
from scal3r_data_tools.formats.yaml_files import numbers, read_yaml
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import in_order, is_image_name
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import as_number, is_number

CALIBRATION = "vbr_calib.yaml"
CAMERAS = {"left": ("cam_l", "camera_left"), "right": ("cam_r", "camera_right")}
LENSES = {"radtan": "opencv", "radtan4": "opencv", "plumb_bob": "opencv", "equidistant": "opencv_fisheye"}
PROCESSED_SUFFIX = "_processed_aligned"
PROCESSED_RATE_HZ = 10.0
MAX_LEVELS = 3
NOT_CONVERTED = Cause(
    "without images", "convert the bags: vbr convert kitti NAME NAME_kitti (pip install vbr-devkit)"
)


class Options(StrictModel):
    """Which camera, and how poses are matched."""

    camera: Literal["left", "right"] = Field("left", description="Which camera of the stereo pair.")
    max_gap_s: float = Field(0.1, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        True,
        description="Interpolate between two poses instead of taking the nearest; cameras are faster than poses.",
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences at most three levels below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(
        source, lambda names: CALIBRATION in names or _is_processed(names), MAX_LEVELS
    ):
        if not (folder / CALIBRATION).is_file():
            yield _processed(folder)
        elif parts := _parts(folder, CAMERAS[options.camera][1]):
            yield _converted(folder, parts, options)
        else:
            leave_out(NOT_CONVERTED, [folder.name], source, SEQUENCE)


def _is_processed(names: frozenset[str]) -> bool:
    return {"rgb", "intrinsics.txt"} <= names


def _parts(folder: Path, camera: str) -> list[Path]:
    """Folders of a camera's images, in order: of the whole sequence, or of its bags one after another."""
    name = folder.name
    for whole in (folder, folder / f"{name}_kitti", folder.parent / f"{name}_kitti"):
        if (whole / camera / "data").is_dir():
            return [whole / camera]
    for place in (folder, folder.parent):
        numbered = {
            int(match[1]): path / camera
            for path in place.iterdir()
            if (match := re.fullmatch(rf"{re.escape(name)}_([0-9]+)(?:_kitti)?", path.name))
            and (path / camera / "data").is_dir()
        }
        if numbered:
            return [numbered[number] for number in sorted(numbered)]
    return []


def _converted(folder: Path, parts: list[Path], options: Options) -> SequenceRecord:
    """A sequence as published and converted."""
    root = folder if all(part.is_relative_to(folder) for part in parts) else folder.parent
    names: list[str] = []
    times: list[float] = []
    num_absent = 0
    for part in parts:
        files = files_by_number(part / "data", r"(\d+)\.(?:png|jpg)")
        stamps = _times(part / "timestamps.txt")
        if files and max(files) >= len(stamps):
            raise UserError(f"{part}: timestamps.txt has {len(stamps)} times, {files[max(files)]} has none")
        where = part.relative_to(root).as_posix()
        absent = [f"{where}/data/{number:010d}.png" for number in range(len(stamps)) if number not in files]
        leave_out(NO_IMAGE, absent, root)
        num_absent += len(absent)
        names += [f"{where}/data/{files[number]}" for number in sorted(files)]
        times += [stamps[number] for number in sorted(files)]
    time, first = np.unique(np.array(times), return_index=True)  # bags overlap by a frame now and then
    names = [names[place] for place in first]
    truth = folder / f"{folder.name}_gt.txt"
    calibration = read_yaml(folder / CALIBRATION)
    camera = calibration.get(CAMERAS[options.camera][0])
    path = folder / CALIBRATION
    known, cam_from_world = np.ones(len(names), bool), None
    if truth.is_file():
        world_from_base, known = read_tum(truth).at(time, options.max_gap_s, interpolate=options.interpolate)
        if not known.any():
            raise UserError(
                f"{folder}: no image ({time[0]:.3f} to {time[-1]:.3f} s) is within {options.max_gap_s} s of a pose of "
                f"{truth.name}; are they of one sequence?"
            )
        base_from_cam = rigid(numbers(camera, "T_b", (4, 4), path), "T_b", path)
        cam_from_world = inverted(world_from_base[known] @ base_from_cam)
    leave_out(NO_POSE, [names[place] for place in np.flatnonzero(~known)], root)
    kept = [names[place] for place in np.flatnonzero(known)]
    size = read_image_size(root / kept[0])  # one camera films a whole sequence
    width, height = (int(side) for side in numbers(camera, "resolution", (2,), path))
    model = str(camera.get("distortion_model", "radtan")) if isinstance(camera, dict) else "radtan"
    if model not in LENSES:
        raise UserError(
            f"{path}: distortion_model '{model}' is unknown; it must be one of {', '.join(LENSES)}"
        )
    # pixel centres at integers stay there when an image is shrunk about its border
    scale, shift = np.array([size[1] / width, size[0] / height] * 2), np.array([0, 0, 0.5, 0.5])
    intrinsics = (numbers(camera, "intrinsics", (4,), path) + shift) * scale - shift
    lens = numbers(camera, "distortion_coeffs", (-1,), path)
    num = len(kept)
    return SequenceRecord(
        image=tuple(kept),
        image_size=np.tile(size, (num, 1)),
        timestamp=time[known],
        camera_model=LENSES[model],
        intrinsics=np.tile(intrinsics, (num, 1)),
        distortion=np.tile(lens, (num, 1)),
        cam_from_world=cam_from_world,
        num_missing=len(names) - num + num_absent,
        **_facts(folder.name, root),
    )


def _processed(folder: Path) -> SequenceRecord:
    """A sequence as others process it: a pose an image, in order."""
    name = folder.name.removesuffix(PROCESSED_SUFFIX)
    places = (folder / f"{name}_gt.txt", folder.parent / "processed_gt" / f"{name}_gt.txt")
    truth = next((path for path in places if path.is_file()), None)
    images = in_order(path.name for path in (folder / "rgb").iterdir() if is_image_name(path.name))
    if not images:
        raise UserError(f"{folder / 'rgb'} holds no images; is the sequence unpacked?")
    cam_from_world, time = None, np.arange(len(images)) / PROCESSED_RATE_HZ
    known = np.ones(len(images), bool)
    if truth is not None:
        table = read_pose_table(truth)
        if len(table) != len(images):
            raise UserError(
                f"{truth} has {len(table)} poses for {len(images)} images of {folder / 'rgb'}; they belong together in "
                "order, so both must be whole"
            )
        known = np.isfinite(table.pose).all((1, 2))
        cam_from_world = inverted(table.pose[known])
        time = time if table.time is None else table.time
    leave_out(NO_POSE, [f"rgb/{images[place]}" for place in np.flatnonzero(~known)], folder)
    kept = [f"rgb/{images[place]}" for place in np.flatnonzero(known)]
    num = len(kept)
    return SequenceRecord(
        image=tuple(kept),
        image_size=np.tile(read_image_size(folder / kept[0]), (num, 1)),
        timestamp=time[known],
        camera_model="pinhole",
        intrinsics=np.tile(read_intrinsics(folder / "intrinsics.txt").values[0], (num, 1)),
        cam_from_world=cam_from_world,
        num_missing=len(images) - num,
        **_facts(name, folder),
    )


def _facts(name: str, root: Path) -> dict[str, Any]:
    return {
        "dataset": "vbr",
        "sequence_id": name,
        "root": root,
        "split": "test",
        "pixel_centre": "integer",
        "is_metric": True,
        "is_dynamic": True,
        "licence": "research use, cite VBR (RVP group, Sapienza University of Rome)",
        "source": "VBR, a Vision Benchmark in Rome",
    }


def _times(path: Path) -> list[float]:
    """Seconds since 1970 of a timestamps.txt."""
    lines = named_text(path, "convert the bags again").splitlines()
    try:
        return [_seconds(line.strip()) for line in lines if line.strip()]
    except ValueError as error:
        raise UserError(f"{path}: {error}; a line is 2023-02-14T10:00:00.123456789, or seconds") from None


def _seconds(text: str) -> float:
    if is_number(text):
        value = as_number(text)
        return value * 1e-9 if value > 1e13 else value
    whole, _, fraction = text.replace(" ", "T").removesuffix("Z").partition(".")
    start = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return start.timestamp() + float(f"0.{fraction or 0}")
