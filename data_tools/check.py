"""scal3r data check: are a dataset's files and numbers what its index says?

Per sequence: every file exists and decodes, sizes are those of the index, cameras and depths are finite and plausible,
time increases, no frame appears twice, depth and poses agree (reprojection.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from scal3r_data_tools.progress import progress
from scal3r_data_tools.reprojection import Reprojection, check_reprojection
from scal3r_train.config import UserError
from scal3r_train.data.depth_codec import read_depth
from scal3r_train.data.image_codec import read_image
from scal3r_train.data.index import SequenceIndex, load_index
from scal3r_train.data.sequence import SequenceRecord

NUM_THREADS = 4
MAX_ASPECT_DIFFERENCE = 0.02


@dataclass(frozen=True)
class SequenceReport:
    """What was found in one sequence: lines that name a file or the sequence. Notes are no reason to fail."""

    sequence_id: str
    num_frames: int
    reprojection: Reprojection
    problems: list[str]
    notes: list[str]


def main(path: str | os.PathLike[str]) -> int:
    """Check every sequence of an index and print a table and the problems; returns 0 if there are none, else 1.

    Raises UserError when the index itself cannot be read.
    """
    torch.set_num_threads(1)  # many small tensors: threads would only wait for one another
    index = load_index(path)
    numbers = range(len(index))
    reports = [check_row(index, number) for number in progress(numbers, len(numbers), "check")]
    _print_reports(reports)
    return 1 if any(report.problems for report in reports) else 0


def check_row(index: SequenceIndex, number: int) -> SequenceReport:
    """Check one sequence of an index."""
    try:
        record = index[number]
    except UserError as error:
        name, num = index.sequence_ids[number], index.num_frames[number]
        return SequenceReport(name, num, Reprojection(None, 0), [str(error)], [])
    results = _decode_all(record)
    problems = [*_check_numbers(record), *(line for lines, _ in results for line in lines)]
    notes = _repeated_pictures(record, [digest for _, digest in results])
    reprojection = Reprojection(None, 0)
    if not problems:  # unreadable files would only be named again
        reprojection = check_reprojection(record)
        if reprojection.problem:
            problems.append(f"{record.root}: {reprojection.problem}")
    return SequenceReport(record.sequence_id, record.num_frames, reprojection, problems, notes)


def _check_numbers(record: SequenceRecord) -> Iterator[str]:
    """Problems of what the index itself holds. Rotations were checked when the row was loaded."""
    where = f"{record.root} ({record.sequence_id})"
    if record.num_frames == 0:
        yield f"{where}: the sequence has no frames"
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
        )


def _decode_all(record: SequenceRecord) -> list[tuple[list[str], str]]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(lambda frame: _check_frame(record, frame), range(record.num_frames)))


def _repeated_pictures(record: SequenceRecord, digests: list[str]) -> list[str]:
    """A note when frames repeat an earlier picture; real cameras do that when a frame is late."""
    first_with: dict[str, int] = {}
    repeats = []
    for frame, digest in enumerate(digests):
        if digest and first_with.setdefault(digest, frame) != frame:
            repeats.append((frame, first_with[digest]))
    if not repeats:
        return []
    frame, earlier = repeats[0]
    return [
        f"{len(repeats)} frames repeat an earlier picture, first {record.root / record.image[frame]} "
        f"(that of {record.image[earlier]})"
    ]


def _check_frame(record: SequenceRecord, frame: int) -> tuple[list[str], str]:
    """Problems of one frame and the digest of its pixels ("" for a blank or unreadable image)."""
    problems, digest = [], ""
    path = record.root / record.image[frame]
    try:
        image = read_image(path)
        expected = tuple(int(side) for side in record.image_size[frame])
        if image.shape[:2] != expected:
            problems.append(f"{path}: size {image.shape[:2]} (height, width), the index says {expected}")
        if image.min() < image.max():  # black-outs are alike on purpose
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        if record.depth and record.depth[frame]:
            problems += _check_depth(record, frame, image.shape[1] / image.shape[0])
    except UserError as error:
        problems.append(str(error))
    if record.mask and record.mask[frame] and not (record.root / record.mask[frame]).is_file():
        problems.append(f"mask {record.root / record.mask[frame]} does not exist")
    return problems, digest


def _check_depth(record: SequenceRecord, frame: int, aspect: float) -> list[str]:
    path = record.root / record.depth[frame]
    depth = read_depth(path, record.depth_codec)
    problems = []
    if not (depth > 0).any():
        problems.append(f"{path}: no valid depth at all")
    if not (np.isfinite(depth) & (depth >= 0)).all():
        problems.append(f"{path}: depths that are negative or not finite")
    if abs(depth.shape[1] / depth.shape[0] / aspect - 1) > MAX_ASPECT_DIFFERENCE:
        problems.append(f"{path}: aspect ratio of {depth.shape} (height, width) is not that of its image")
    return problems


def _print_reports(reports: list[SequenceReport]) -> None:
    console = Console()
    table = Table("sequence", "frames", "pairs", "depth error", "verdict")
    for report in reports:
        error = report.reprojection.error
        table.add_row(
            report.sequence_id,
            str(report.num_frames),
            str(report.reprojection.num_pairs),
            "-" if error is None else f"{error:.2%}",
            f"{len(report.problems)} problems" if report.problems else "ok",
        )
    console.print(table)
    for problem in (problem for report in reports for problem in report.problems):
        console.print(problem, soft_wrap=True, markup=False, highlight=False)
    for note in (note for report in reports for note in report.notes):
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    num_bad = sum(bool(report.problems) for report in reports)
    num_frames = sum(report.num_frames for report in reports)
    console.print(f"{len(reports)} sequences, {num_frames} frames: {num_bad} sequences with problems")
