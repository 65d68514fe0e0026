"""Common Objects in 3D, version 2: turns around objects.

Layout: CATEGORY/SEQUENCE/{images/frame%06d.jpg, depths/*.geometric.png, depth_masks/*.png}, and per category
frame_annotations.jgz and sequence_annotations.jgz (gzipped JSON lists); SRC is the folder of categories, or one
category. Paths in the annotations are relative to the folder of categories. `image.size` is height, width.
Cameras are PyTorch3D's: x left, y up, z forward, and points are rows: X_cam = X_world R + T. Focal length and principal
point are in units of half the image's shorter side (`ndc_isotropic`) or of half its width and height
(`ndc_norm_image_bounds`), the principal point to the left and up of the image's centre. The image spans those bounds,
so pixel centres are at half integers. Depth is z in the unit of the poses (COLMAP's, not metres): a 16-bit PNG with the
bits of a float16, times `depth.scale_adjustment`; depth masks are 0 where it is not to be trusted.

Quirks: frames of a sequence are samples of a video in order; some depth files are empty; sequences whose cameras are
poor are left out by the set's own score (option); the list of sequences is the annotations', set_lists are ignored; the
single-sequence subset has fewer images than annotations, the others are counted as missing. Frames whose
scale_adjustment is not that of most frames of their sequence lose their depth, which is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import present
from scal3r_data_tools.formats.json_files import entry, read_json, stream_list
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.left_out import NO_FRAMES, NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import note

FRAMES, SEQUENCES = "frame_annotations.jgz", "sequence_annotations.jgz"
OPENCV_FROM_PYTORCH3D = np.diag([-1.0, -1.0, 1.0])
MAX_DEPTH_PERCENTILE = 98.0
NO_NUMBERS = np.empty(0)
POOR = Cause("of sequences with poor cameras", "min_viewpoint_quality=null takes them")


class Options(StrictModel):
    """Which sequences are good enough."""

    min_viewpoint_quality: float | None = Field(
        0.5, description="sequences must score more than this for their cameras; null: take all [score]"
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is kept of a frame's annotation: kilobytes become a few hundred bytes.

    camera: [16] cam_from_world 3x4 row by row, fx fy cx cy.
    """

    number: int
    time: float
    image: str
    hw: tuple[int, int]
    depth: str
    mask: str
    scale: float
    camera: np.ndarray


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences, category by category, by name; one category is in memory at a time."""
    source = source.resolve()
    folders = (
        [source] if (source / FRAMES).is_file() else sorted(p.parent for p in source.glob(f"*/{FRAMES}"))
    )
    for folder in folders:
        good = _good_sequences(folder, options)
        frames = _frames_by_sequence(folder / FRAMES, good)
        poor = frames.pop("", [])
        leave_out(POOR, [frame.image for frame in poor[:1]], folder, num=len(poor))
        for name in sorted(frames):
            record = _sequence(folder, name, sorted(frames.pop(name), key=lambda frame: frame.number))
            if record is not None:
                yield record


@names_file("folder")
def _good_sequences(folder: Path, options: Options) -> set[str] | None:
    """Names of the sequences that score enough, None for all."""
    least = options.min_viewpoint_quality
    if least is None:
        return None
    path = folder / SEQUENCES
    rows = read_json(path)
    scores = {entry(row, "sequence_name", path): row.get("viewpoint_quality_score") for row in rows}
    return {name for name, score in scores.items() if score is not None and score > least}


@names_file("path")
def _frames_by_sequence(path: Path, good: set[str] | None) -> dict[str, list[_Frame]]:
    """Frames of all good sequences; those of the others are together under "", only to be counted."""
    frames: dict[str, list[_Frame]] = {}
    for row in stream_list(path):
        name = entry(row, "sequence_name", path)
        if good is not None and name not in good:
            frames.setdefault("", []).append(_Frame(0, 0.0, str(name), (0, 0), "", "", 1.0, NO_NUMBERS))
        else:
            frames.setdefault(name, []).append(_frame(row, path))
    return frames


def _frame(row: dict[str, Any], path: Path) -> _Frame:
    try:
        image, viewpoint, depth = row["image"], row.get("viewpoint"), row.get("depth") or {}
        height, width = (int(side) for side in image["size"])
        return _Frame(
            number=int(row["frame_number"]),
            time=float(row.get("frame_timestamp") or 0.0),
            image=str(image["path"]),
            hw=(height, width),
            depth=depth.get("path") or "",
            mask=depth.get("mask_path") or "",
            scale=float(depth.get("scale_adjustment") or 1.0),
            camera=_camera(viewpoint, height, width) if viewpoint else np.full(16, np.nan),
        )
    except (KeyError, TypeError, ValueError) as error:
        where = f"{row.get('sequence_name')} frame {row.get('frame_number')}"
        raise UserError(f"{path}: {where} is not as CO3D writes it: {type(error).__name__} {error}") from None


def _camera(viewpoint: dict[str, Any], height: int, width: int) -> np.ndarray:
    half = np.array([width, height]) / 2
    units = {"ndc_isotropic": half.min(), "ndc_norm_image_bounds": half}
    unit = units[viewpoint.get("intrinsics_format", "ndc_norm_image_bounds").lower()]
    focal = np.array(viewpoint["focal_length"], np.float64) * unit
    centre = half - np.array(viewpoint["principal_point"], np.float64) * unit
    rows = np.array(viewpoint["R"], np.float64).reshape(3, 3)
    translation = np.array(viewpoint["T"], np.float64).reshape(3, 1)
    pose = OPENCV_FROM_PYTORCH3D @ np.concatenate([rows.T, translation], 1)
    return np.concatenate([pose.ravel(), focal, centre])


@names_file("folder")
def _sequence(folder: Path, name: str, frames: list[_Frame]) -> SequenceRecord | None:
    root = folder.parent
    there = present(root, [path for frame in frames for path in (frame.image, frame.depth, frame.mask)])
    kept = [frame for frame in frames if frame.image in there and np.isfinite(frame.camera).all()]
    leave_out(NO_IMAGE, [frame.image for frame in frames if frame.image not in there], root)
    leave_out(
        NO_POSE,
        [frame.image for frame in frames if frame.image in there and not np.isfinite(frame.camera).all()],
        root,
    )
    if not kept:
        leave_out(NO_FRAMES, [f"{folder.name}/{name}"], root, SEQUENCE)
        return None
    scales = Counter(frame.scale for frame in kept if frame.depth in there)
    scale = scales.most_common(1)[0][0] if scales else 1.0
    if len(scales) > 1:
        others = sum(scales.values()) - scales[scale]
        note(f"{folder / name}: {others} frames have another depth scale than {scale:g} and lose their depth")
    has_depth = [frame.depth in there and frame.scale == scale for frame in kept]
    has_mask = [ok and frame.mask in there for frame, ok in zip(kept, has_depth, strict=True)]
    numbers = np.array([frame.number for frame in kept], np.float64)
    times = np.array([frame.time for frame in kept])
    cameras = np.stack([frame.camera for frame in kept])
    return SequenceRecord(
        dataset="co3d_v2",
        sequence_id=f"{folder.name}/{name}",
        root=root,
        image=tuple(frame.image for frame in kept),
        image_size=np.array([frame.hw for frame in kept]),
        timestamp=times if (np.diff(times) > 0).all() else numbers,
        depth=_where(has_depth, [frame.depth for frame in kept]),
        depth_codec="float16_bits" if any(has_depth) else "",
        depth_scale=scale,
        mask=_where(has_mask, [frame.mask for frame in kept]),
        mask_rule="below 128" if any(has_mask) else "",
        camera_model="pinhole",
        intrinsics=cameras[:, 12:],
        cam_from_world=cameras[:, :12].reshape(-1, 3, 4),
        num_missing=len(frames) - len(kept),
        max_depth_percentile=MAX_DEPTH_PERCENTILE,
        licence="CC BY-NC 4.0",
        source="Common Objects in 3D v2",
    )


def _where(flags: list[bool], names: list[str]) -> tuple[str, ...]:
    """Names where the flag is set and "" elsewhere, () without any."""
    return tuple(name if flag else "" for name, flag in zip(names, flags, strict=True)) if any(flags) else ()
