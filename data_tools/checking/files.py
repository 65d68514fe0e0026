"""The facts that need no second frame: every file decoded, and the index's own rotations, times and intrinsics.

Sizes, masks, ranges of depth, pictures that come twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.index.index import ROTATION_TOLERANCE
from scal3r_train.data.io.depth_codec import decode_depth
from scal3r_train.data.io.frame_files import read_file
from scal3r_train.data.io.frame_io import read_stored_image
from scal3r_train.data.io.image_codec import decode_mask
from scal3r_train.data.sequence import SequenceRecord

MAX_ASPECT_DIFFERENCE = 0.02
MAX_LINES = 5  # of one kind
MAX_DEPTH_RATIO = 1e6
METRIC_DEPTH = (0.01, 5000.0)
MIN_LEVELS = 48


@dataclass(frozen=True)
class FrameFacts:
    """What one frame's files are like: problems by kind, the digest of its pixels ("" for a blank one), the 1st, 50th
    and 99th percentile of its depth, and how many different depths it has (0: no depth).
    """

    problems: tuple[tuple[str, str], ...] = ()
    digest: str = ""
    is_blank: bool = False
    percentiles: tuple[float, float, float] | None = None
    num_levels: int = 0
    share_valid: float = 1.0


@dataclass(frozen=True)
class FileReport:
    """Lines to print, and frames that cannot be used any further."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_decoded: int = 0


def check_files(record: SequenceRecord, every: int, num_workers: int) -> FileReport:
    """Decode every Nth frame of a sequence (0: none)."""
    frames = range(0, record.num_frames, every) if every else range(0)
    with ThreadPoolExecutor(num_workers) as pool:
        facts = list(pool.map(lambda frame: frame_facts(record, frame), frames))
    by_kind: dict[str, list[str]] = {}
    for one in facts:
        for kind, line in one.problems:
            by_kind.setdefault(kind, []).append(line)
    problems = []
    for lines in by_kind.values():
        problems += lines[:MAX_LINES]
        if len(lines) > MAX_LINES:
            problems.append(f"{record.root}: {len(lines) - MAX_LINES} more frames like the last")
    problems += _depth_range(record, facts)
    return FileReport(problems, [*_notes(record, list(frames), facts)], len(facts))


def frame_facts(record: SequenceRecord, frame: int) -> FrameFacts:
    """Decode the files of one frame."""
    problems: list[tuple[str, str]] = []
    path = record.root / record.image[frame]
    digest, is_blank, depth_facts = "", False, FrameFacts()
    try:
        image = read_stored_image(record, frame)
        expected = tuple(int(side) for side in record.image_size[frame])
        if image.shape[:2] != expected:
            problems.append(
                ("size", f"{path}: size {image.shape[:2]} (height, width), the index says {expected}")
            )
        is_blank = bool(image.min() == image.max())
        if not is_blank:  # black-outs are alike on purpose
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
    except UserError as error:
        problems.append(("image", str(error)))
    for names, rule in ((record.mask, record.mask_rule), (record.sky_mask, record.sky_mask_rule)):
        if names and names[frame]:
            try:
                decode_mask(read_file(record, names[frame]), rule, record.root / names[frame])
            except UserError as error:
                problems.append(("mask", str(error)))
    if record.depth and record.depth[frame]:
        try:
            depth_facts = _depth_facts(record, frame)
        except UserError as error:
            problems.append(("depth", str(error)))
    return FrameFacts(
        (*problems, *depth_facts.problems),
        digest,
        is_blank,
        depth_facts.percentiles,
        depth_facts.num_levels,
        depth_facts.share_valid,
    )


def _depth_facts(record: SequenceRecord, frame: int) -> FrameFacts:
    path = record.root / record.depth[frame]
    height, width = (int(side) for side in record.image_size[frame])
    depth = decode_depth(read_file(record, record.depth[frame]), record.depth_codec, path, (height, width))
    problems = []
    if abs(depth.shape[1] / depth.shape[0] / (width / height) - 1) > MAX_ASPECT_DIFFERENCE:
        problems.append(
            ("aspect", f"{path}: aspect ratio of {depth.shape} (height, width) is not that of its image")
        )
    values = depth[depth > 0]
    if len(values) == 0:
        if not (depth < 0).any():
            problems.append(("empty", f"{path}: no valid depth at all"))
        return FrameFacts(tuple(problems), share_valid=0.0)
    thin = values[:: max(len(values) // 20000, 1)]
    low, middle, high = (float(value) for value in np.percentile(thin, [1, 50, 99]) * record.depth_scale)
    return FrameFacts(
        tuple(problems),
        percentiles=(low, middle, high),
        num_levels=len(np.unique(thin)) if len(thin) > 1000 else 0,
        share_valid=len(values) / depth.size,
    )


def _depth_range(record: SequenceRecord, facts: list[FrameFacts]) -> Iterator[str]:
    """Problems of depth as a whole: numbers that cannot be depths, or not in metres."""
    known = np.array([one.percentiles for one in facts if one.percentiles is not None])
    if len(known) == 0:
        return
    low, middle, high = np.median(known, axis=0)
    where = f"{record.root} ({record.sequence_id})"
    if high > MAX_DEPTH_RATIO * low:
        yield (
            f"{where}: depths range from {low:.3g} to {high:.3g}; numbers of the wrong byte order or type look like "
            f"that (codec {record.depth_codec})"
        )
    elif record.is_metric and not METRIC_DEPTH[0] < middle < METRIC_DEPTH[1]:
        yield (
            f"{where}: the median depth is {middle:.3g} m; is the unit of codec {record.depth_codec} right, or is the "
            "set not metric?"
        )


def _notes(record: SequenceRecord, frames: list[int], facts: list[FrameFacts]) -> Iterator[str]:
    where = f"{record.root} ({record.sequence_id})"
    first_with: dict[str, int] = {}
    repeats = []
    for frame, one in zip(frames, facts, strict=True):
        if one.digest and first_with.setdefault(one.digest, frame) != frame:
            repeats.append((frame, first_with[one.digest]))
    if repeats:
        frame, earlier = repeats[0]
        yield (  # real cameras do that when a frame is late
            f"{len(repeats)} frames repeat an earlier picture, first {record.root / record.image[frame]} "
            f"(that of {record.image[earlier]})"
        )
    if num_blank := sum(one.is_blank for one in facts):
        yield f"{where}: {num_blank} images are of one colour"
    names = Counter(name for name in record.depth if name)
    if names and (most := names.most_common(1)[0])[1] > 1:
        yield f"{where}: depth file {most[0]} belongs to {most[1]} frames"
    levels = [one.num_levels for one in facts if one.num_levels]
    if levels and np.median(levels) < MIN_LEVELS:
        yield f"{where}: depth maps hold only about {int(np.median(levels))} different values; were they 8-bit once?"


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
