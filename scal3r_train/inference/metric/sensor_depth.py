"""Depth maps of a sensor beside the images: which belongs to which, and by how much predicted depth is too small.

A map belongs to the image of the same name, up to the suffix and words such as `depth` and `color`, or of the same
number. It may have another resolution than the image, but must show the same view. Shapes: H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import read_frame_depth
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord

SUFFIXES = {
    ".png": "",
    ".npy": "npy",
    ".exr": "exr",
    ".pfm": "pfm",
    ".h5": "hdf5_depth",
    ".hdf5": "hdf5_depth",
}
WORDS = re.compile(r"(?i)[._-]?(colou?r|rgb|depths?|depth_?map|images?|img|frame)[._-]?")
MIN_PIXELS = 100  # of a frame with both depths


def with_sensor_depth(
    record: SequenceRecord, frames: Sequence[int], folder: Path, codec: str
) -> tuple[SequenceRecord, int]:
    """Return the sequence with the depth maps of a folder instead of its own, and how many of `frames` have one.

    Args:
        record: the input.
        frames: of the input, those that are used.
        folder: of the maps.
        codec: key of `CODECS`; empty: by the suffix, where that says it.

    Raises:
        UserError: the folder holds no map of these frames, or the codec is missing or needs what is not known.
    """
    if not folder.is_dir():
        raise UserError(
            f"alignment.metric.depth {folder} is no folder; give one with a depth map for the images"
        )
    files = sorted(found_below(folder, lambda name: Path(name).suffix.lower() in SUFFIXES))
    by_key: dict[str, Path] = {}
    for path in files:
        for key in _keys(path.name):
            by_key.setdefault(key, path)
    depth = [""] * record.num_frames
    for frame in frames:
        found = next((by_key[key] for key in _frame_keys(record, frame) if key in by_key), None)
        depth[frame] = "" if found is None else str(found.resolve())
    num_found = sum(map(bool, depth))
    if not num_found:
        example = files[0].name if files else "nothing of " + ", ".join(SUFFIXES)
        raise UserError(
            f"alignment.metric.depth {folder} holds no depth map named as the images are "
            f"({record.image[frames[0]]}); it holds {example}"
        )
    suffix = Path(next(filter(None, depth))).suffix.lower()
    codec = codec or SUFFIXES[suffix]
    if not codec:
        raise UserError(
            f"depth in {suffix} files needs alignment.metric.depth_codec, such as uint16_mm or uint16_cm; one of "
            f"{', '.join(CODECS)}"
        )
    if CODECS[codec].is_ray_length and record.intrinsics is None:
        raise UserError(
            f"depth_codec {codec} holds lengths of rays, which need input.intrinsics to become depth"
        )
    changed = replace(
        record,
        depth=tuple(depth),
        depth_codec=codec,
        depth_scale=1.0,
        max_depth=0.0,
        max_depth_percentile=0.0,
        mask=(),
        sky_mask=(),
        packed=None,
    )
    return changed, num_found


def sensor_depth(record: SequenceRecord, index: int) -> np.ndarray | None:
    """Return a frame's map [h, w] float32 in metres, 0 or less where it says nothing; None for a frame without one.

    Raises:
        UserError: it cannot be read, or has another shape than the image.
    """
    depth = read_frame_depth(record, index)
    if depth is None:
        return None
    height, width = record.upright_hw(index)
    if abs(depth.shape[0] * width / height - depth.shape[1]) > 0.02 * depth.shape[1]:
        raise UserError(
            f"depth map {record.depth[index]} has {depth.shape[1]}x{depth.shape[0]} pixels, its image "
            f"{width}x{height}: not the same shape, so not the same view"
        )
    return depth


def median_ratio(sensor: np.ndarray, predicted: np.ndarray, usable: np.ndarray) -> float | None:
    """Return the median of sensor / predicted over pixels [H, W] that have both; None for fewer than 100."""
    both = usable & (sensor > 0) & (predicted > 0)
    if both.sum() < MIN_PIXELS:
        return None
    return float(np.median(sensor[both].astype(np.float64) / predicted[both]))


def _frame_keys(record: SequenceRecord, frame: int) -> list[str]:
    name = record.image[frame]
    video = video_frame(record, name)
    return _keys(PurePosixPath(name).name) if video is None else [f"number {video[1]}"]


def _keys(name: str) -> list[str]:
    """What a file may be known by: its stem, the stem without words of its kind, its number."""
    stem = PurePosixPath(name).stem.lower()
    plain = WORDS.sub(" ", stem).strip(" .-_")
    numbers = re.findall(r"[0-9]+", stem)
    last = [f"number {int(numbers[-1])}"] if len(numbers) == 1 else []
    return list(dict.fromkeys([stem, *([plain] if plain else []), *last]))
