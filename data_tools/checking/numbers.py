"""What the index itself holds, without any file: rotations, times, intrinsics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scal3r_train.data.index import ROTATION_TOLERANCE
from scal3r_train.data.sequence import SequenceRecord


def check_numbers(record: SequenceRecord) -> Iterator[str]:
    """Yield the problems of a record's numbers."""
    where = f"{record.root} ({record.sequence_id})"
    if record.num_frames == 0:
        yield f"{where}: the sequence has no frames"
        return
    yield from _rotations(record, where)
    if record.is_ordered and not (np.diff(record.timestamp) > 0).all():
        frame = int(np.argmin(np.diff(record.timestamp) > 0)) + 1
        yield f"{where}: timestamp of frame {frame} ({record.image[frame]}) does not come after the one before"
    if record.intrinsics is None:
        return
    height, width = record.image_size.T
    fx, fy, cx, cy = record.intrinsics.T
    good = (fx > 0) & (fy > 0) & (cx > 0) & (cx < width) & (cy > 0) & (cy < height)
    if not good.all():
        frame = int(np.argmin(good))
        yield (
            f"{where}: intrinsics of frame {frame} ({record.image[frame]}) are implausible for "
            f"{width[frame]}x{height[frame]} pixels: fx fy cx cy = {record.intrinsics[frame].tolist()}"
            + _intrinsics_hint(record, frame)
        )


def _rotations(record: SequenceRecord, where: str) -> Iterator[str]:
    if record.cam_from_world is None:
        return
    rotation = record.cam_from_world[:, :, :3]
    finite = np.isfinite(record.cam_from_world).all((1, 2))
    gram = rotation @ rotation.transpose(0, 2, 1)
    determinant = np.linalg.det(np.where(finite[:, None, None], rotation, np.eye(3)))
    error = np.abs(gram - np.eye(3)).max((1, 2))
    bad = ~(finite & (error < ROTATION_TOLERANCE) & (determinant > 0))
    if not bad.any():
        return
    frame = int(np.argmax(bad))
    text = (
        f"{where}: pose of frame {frame} ({record.image[frame]}) is not a rigid transform "
        f"(det {determinant[frame]:.4g}, |R R^T - I| {error[frame]:.2g}), as {int(bad.sum())} of {len(bad)}"
    )
    scale = np.sqrt(np.maximum(gram[:, 0, 0], 1e-12))
    is_scaled = np.abs(gram / scale[:, None, None] ** 2 - np.eye(3)).max((1, 2)) < ROTATION_TOLERANCE
    if not finite.all():
        text += "; numbers are not finite"
    elif (determinant < 0).all() and (error < ROTATION_TOLERANCE).all():
        text += "; the world is reflected (left-handed): flip one of its axes when indexing"
    elif is_scaled.all() and (determinant > 0).all():
        text += (
            f"; rotations are multiplied by {np.median(scale):.4g}: divide it out (a similarity, not a pose)"
        )
    yield text


def _intrinsics_hint(record: SequenceRecord, frame: int) -> str:
    assert record.intrinsics is not None
    fx, fy, cx, cy = record.intrinsics[frame]
    height, width = record.image_size[frame]
    if max(abs(fx), abs(fy)) < 20 and max(abs(cx), abs(cy)) <= 1.5:
        return "; they look normalised: multiply by width and height"
    if fx > 0 and fy > 0 and cx > 0 and cy > 0 and (cx < height and cy < width):
        return "; cx and cy look swapped"
    if fx > 0 and fy > 0 and cx > 0 and cy > 0:
        return f"; they look like those of images about {max(cx / width, cy / height) * 2:.2g} times the size"
    return ""
