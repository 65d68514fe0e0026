"""Mapillary Planet-Scale Depth (MPSD): street photos of the world with depth from multi-view stereo.

Layout: {train, val}/KEY.jpg and KEY.png, train.json and val.json (per KEY its `focal`), and
reconstruction_data/COLLECTION/TIMESTAMP/reconstruction.json as OpenSfM writes it; SRC is the folder that holds these.
Of a reconstruction, `shots` are read: KEY -> rotation (axis times angle in radians) and translation, which together are
cam_from_world with OpenCV axes in metres. Images are free of distortion: the focal length is `focal` times the longer
side of the image, the principal point its centre; pixel centres are at half integers. Depth: uint16 centimetres, z, 0 =
invalid, at a lower resolution than the image.

A record is a reconstruction's photos of one split, by KEY, in no order of time; reconstructions with fewer than two are
left out. Shots that are in neither list or whose photo is not there count as missing. Sky is not marked: depth there is
absent or wrong in places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

RECONSTRUCTIONS = "reconstruction_data"
SPLITS = ("train", "val")
MIN_FRAMES = 2
SINGLE = Cause("of fewer than two frames")


@dataclass(frozen=True)
class _Photo:
    """One photo of the set.

    Attributes:
        split: train or val.
        focal: focal length over the longer side.
        has_depth: whether its depth is there.
    """

    split: str
    focal: float
    has_depth: bool


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all reconstructions, by folder."""
    source = source.resolve()
    if not (source / RECONSTRUCTIONS).is_dir():
        return
    photos = _photos(source)
    for collection in sorted(path for path in (source / RECONSTRUCTIONS).iterdir() if path.is_dir()):
        for folder in sorted(path for path in collection.iterdir() if path.is_dir()):
            path = folder / "reconstruction.json"
            if path.is_file():
                yield from _reconstructions(source, path, photos)


@names_file("source")
def _photos(source: Path) -> dict[str, _Photo]:
    """Photos that are there, by key."""
    found: dict[str, _Photo] = {}
    for split in SPLITS:
        path = source / f"{split}.json"
        if not path.is_file() and (source / split).is_dir():
            raise UserError(
                f"{path} does not exist, though {split}/ does; get it: it holds the focal lengths"
            )
        if not path.is_file():
            continue
        try:
            focals = {key: float(entry(value, "focal", path)) for key, value in read_json(path).items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"{path} is not MPSD's: it must map keys to objects with a number 'focal'"
            ) from None
        here = {file.name for file in (source / split).iterdir()} if (source / split).is_dir() else set()
        for key, focal in focals.items():
            if f"{key}.jpg" in here and np.isfinite(focal) and focal > 0:
                found[key] = _Photo(split, focal, f"{key}.png" in here)
    if not found:
        raise UserError(f"{source} holds no photo of train.json or val.json; get train/ and val/ too")
    return found


@names_file("path")
def _reconstructions(source: Path, path: Path, photos: Mapping[str, _Photo]) -> Iterator[SequenceRecord]:
    name = path.parent.relative_to(source / RECONSTRUCTIONS).as_posix()
    for number, reconstruction in enumerate(read_json(path)):
        shots = entry(reconstruction, "shots", path)
        poses = {key.removesuffix(".jpg"): _pose(shot, key, path) for key, shot in shots.items()}
        good = sorted(key for key, pose in poses.items() if key in photos and np.isfinite(pose).all())
        num_missing = len(poses) - len(good)
        leave_out(NO_IMAGE, sorted(key for key in poses if key not in photos), path.parent)
        leave_out(
            NO_POSE,
            sorted(key for key in poses if key in photos and not np.isfinite(poses[key]).all()),
            path.parent,
        )
        for split in SPLITS:
            keys = [key for key in good if photos[key].split == split]
            if len(keys) >= MIN_FRAMES:
                suffix = f"#{number}" if number else ""
                yield _sequence(source, f"{split}/{name}{suffix}", keys, photos, poses, num_missing)
                num_missing = 0  # counted once
            else:
                leave_out(SINGLE, [f"{split}/{key}.jpg" for key in keys], source)
                leave_out(SINGLE, [f"{split}/{name}"] if keys else [], source, SEQUENCE)


def _pose(shot: Any, key: str, path: Path) -> np.ndarray:
    """cam_from_world [3, 4]."""
    try:
        rotation, translation = (
            np.array(shot[part], np.float64).reshape(3) for part in ("rotation", "translation")
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: shot {key} has no rotation and translation of 3 numbers") from None
    if not np.isfinite(rotation).all():
        return np.full((3, 4), np.nan)
    return np.column_stack([Rotation.from_rotvec(rotation).as_matrix(), translation])


def _sequence(
    source: Path,
    sequence_id: str,
    keys: list[str],
    photos: Mapping[str, _Photo],
    poses: Mapping[str, np.ndarray],
    num_missing: int,
) -> SequenceRecord:
    split = photos[keys[0]].split
    image = tuple(f"{split}/{key}.jpg" for key in keys)
    depth = tuple(f"{split}/{key}.png" if photos[key].has_depth else "" for key in keys)
    sizes = np.array([read_image_size(source / name) for name in image])
    focal = np.array([photos[key].focal for key in keys]) * sizes.max(1)
    return SequenceRecord(
        dataset="mapillary",
        sequence_id=sequence_id,
        split=split,
        root=source,
        image=image,
        image_size=sizes,
        timestamp=np.arange(len(keys), dtype=np.float64),
        depth=depth if any(depth) else (),
        depth_codec="uint16_cm" if any(depth) else "",
        camera_model="pinhole",
        intrinsics=np.stack([focal, focal, sizes[:, 1] / 2, sizes[:, 0] / 2], 1),
        cam_from_world=np.stack([poses[key] for key in keys]),
        num_missing=num_missing,
        is_ordered=False,
        is_metric=True,
        is_dynamic=True,
        licence="Mapillary research licence, non-commercial",
        source="Mapillary Planet-Scale Depth",
    )
