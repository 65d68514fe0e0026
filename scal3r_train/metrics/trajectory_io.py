"""Trajectory files in TUM and KITTI format, and matching two of them pose by pose.

TUM: `timestamp tx ty tz qx qy qz qw` (quaternion xyzw of any norm) a line; KITTI: the 12 numbers of a 3 x 4
matrix, row by row, a line, frames in order and no times; the 16 of a 4 x 4 matrix are read likewise. All state
world_from_cam (OpenCV axes). Which one a file is shows in its number of columns. Empty lines, lines starting
with `#` and a heading of words are skipped; commas, semicolons and tabs are as good as blanks.
Shapes: S poses, N matched pairs.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import roma
import torch
from torch import Tensor

from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.text_file import as_number, is_number, read_text_file, words_of

NUM_TUM, NUM_KITTI, NUM_SQUARE = 8, 12, 16
MIN_DIFFERENT_TIMES = 0.8  # of the poses; a logger that repeats a line now and then stays above
MAX_ROUNDING = 1e-6  # of a last row 0 0 0 1 that somebody computed
NANOSECONDS_FROM = 1e13  # seconds since 1970 have ten digits
MAX_ROTATION_ERROR = 1e-2  # of R R^T - I; files with few digits stay below, matrices with a scale do not


@dataclass(frozen=True, eq=False)
class Trajectory:
    """`world_from_cam` [S, 3, 4] float64; `timestamps` [S] float64 in order, or None (frame by frame)."""

    world_from_cam: Tensor
    timestamps: Tensor | None

    def __len__(self) -> int:
        return len(self.world_from_cam)


@dataclass(frozen=True, eq=False)
class MatchedTrajectories:
    """Pairs of poses: world_from_cam [N, 3, 4] of either side, and how many poses found no partner."""

    estimate: Tensor
    truth: Tensor
    num_unmatched_estimate: int
    num_unmatched_truth: int

    @property
    def share_of_estimate(self) -> float:
        """Share of the estimate's poses that have a partner."""
        return _share(len(self.estimate), self.num_unmatched_estimate)

    @property
    def share_of_truth(self) -> float:
        """Share of the true poses that have a partner: how much of the path the estimate covers."""
        return _share(len(self.truth), self.num_unmatched_truth)


def _share(num_pairs: int, num_unmatched: int) -> float:
    return num_pairs / max(num_pairs + num_unmatched, 1)


def read_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read a TUM or KITTI file; poses come sorted by time, KITTI's matrices with the file's rounding.

    Raises UserError naming file and line for anything that is not a trajectory.
    """
    numbered_rows = _read_rows(Path(path))
    line_numbers = [line for line, _ in numbered_rows]
    rows = torch.tensor([row for _, row in numbered_rows], dtype=torch.float64)
    if rows.shape[1] == NUM_SQUARE:
        _check_last_rows(rows, path, line_numbers)
        rows = rows[:, :NUM_KITTI]
    if rows.shape[1] == NUM_KITTI:
        world_from_cam = rows.reshape(-1, 3, 4)
        _check_rotations(world_from_cam[:, :, :3], path, line_numbers)
        return Trajectory(world_from_cam, None)
    if float(rows[:, 0].abs().max()) >= NANOSECONDS_FROM:
        raise UserError(
            f"{path} has times in nanoseconds ({rows[0, 0]:.0f}), as EuRoC's files, whose quaternions are w x y z; "
            "give TUM format: seconds, position, quaternion x y z w"
        )
    norm = rows[:, 4:].norm(dim=1, keepdim=True)
    if not (norm > 0).all():
        line = line_numbers[int(norm[:, 0].argmin())]
        raise UserError(
            f"{path}, line {line}: a quaternion of zeros is no rotation; repair or remove the line"
        )
    rotation = roma.unitquat_to_rotmat(rows[:, 4:] / norm)
    order = rows[:, 0].argsort(stable=True)
    _refuse_rounded_times(rows, path)
    return Trajectory(torch.cat([rotation, rows[:, 1:4, None]], dim=-1)[order], rows[order, 0])


def _refuse_rounded_times(rows: Tensor, path: str | os.PathLike[str]) -> None:
    """Raise UserError where many lines [S, 8] have the time of another one and a pose of their own.

    Lines that are there twice harm nobody, nor do a few times with two poses. Times that were written with too few
    digits are repeated everywhere: nobody can say then which pose is whose, and what is matched by them can score 0
    whatever the poses are.
    """
    num_times, num_poses = len(rows[:, 0].unique()), len(rows.unique(dim=0))
    if num_times < MIN_DIFFERENT_TIMES * num_poses:
        raise UserError(
            f"{path} has {num_times} different times for {num_poses} poses, so that nobody can say which pose is "
            "whose; write times with all their digits (seconds since 1970 need at least 13)"
        )


def write_trajectory(
    path: str | os.PathLike[str], trajectory: Trajectory, file_format: Literal["tum", "kitti"]
) -> None:
    """Write all poses, atomically and so that every number reads back to the same float64.

    TUM without timestamps gets frame numbers 0, 1, ..; KITTI drops timestamps.
    """
    poses = trajectory.world_from_cam.double()
    if file_format == "kitti":
        rows = poses.flatten(1)
    else:
        timestamps = trajectory.timestamps
        if timestamps is None:
            timestamps = torch.arange(len(poses), dtype=torch.float64)
        quaternion_xyzw = roma.rotmat_to_unitquat(poses[..., :3])
        rows = torch.cat([timestamps[:, None], poses[..., 3], quaternion_xyzw], dim=1)
    lines = [" ".join(map(repr, row)) + "\n" for row in rows.tolist()]
    write_text_atomically(Path(path), "".join(lines))


def match_trajectories(
    estimate: Trajectory, truth: Trajectory, max_time_difference: float
) -> MatchedTrajectories:
    """Pair poses by time (TUM, `match_timestamps`) or by frame (KITTI).

    Raises UserError when one trajectory has times and the other has none, when frame counts differ, or when
    nothing matches within `max_time_difference` seconds.
    """
    if (estimate.timestamps is None) != (truth.timestamps is None):
        kitti, tum = "ground truth", "estimate"
        if estimate.timestamps is None:
            kitti, tum = tum, kitti
        raise UserError(
            f"the {kitti} is in KITTI format (no timestamps), the {tum} in TUM format; give both in one format"
        )
    if estimate.timestamps is None or truth.timestamps is None:
        if len(estimate) != len(truth):
            raise UserError(
                f"the estimate has {len(estimate)} poses, the ground truth {len(truth)}, and KITTI files carry no "
                "timestamps; give both files one line for every frame"
            )
        return MatchedTrajectories(estimate.world_from_cam, truth.world_from_cam, 0, 0)
    index_estimate, index_truth = match_timestamps(estimate.timestamps, truth.timestamps, max_time_difference)
    if not len(index_estimate):
        raise UserError(
            f"no timestamps match within {max_time_difference:g} s (estimate {_span(estimate.timestamps)}, "
            f"ground truth {_span(truth.timestamps)}); check the clocks or raise --max-time-difference"
        )
    return MatchedTrajectories(
        estimate.world_from_cam[index_estimate],
        truth.world_from_cam[index_truth],
        len(estimate) - len(index_estimate.unique()),
        len(truth) - len(index_truth.unique()),
    )


def match_timestamps(estimate: Tensor, truth: Tensor, max_difference: float) -> tuple[Tensor, Tensor]:
    """Indices (into the estimate, into the truth) of pairs at most `max_difference` apart; both series sorted.

    Every pose of the series with fewer poses (the estimate when they are equal) goes with its nearest in the
    other, as in the tools that published numbers come from. So no pose of the smaller series is used twice;
    one of the larger series is where that has a gap narrower than twice `max_difference`.
    """
    if len(truth) < len(estimate):
        index_truth, index_estimate = match_timestamps(truth, estimate, max_difference)
        return index_estimate, index_truth
    after = torch.searchsorted(truth, estimate).clamp(max=len(truth) - 1)
    before = (after - 1).clamp(min=0)
    nearest = torch.where((estimate - truth[before]).abs() <= (estimate - truth[after]).abs(), before, after)
    chosen = ((estimate - truth[nearest]).abs() <= max_difference).nonzero()[:, 0]
    return chosen, nearest[chosen]


def _span(timestamps: Tensor) -> str:
    """First and last time, for messages."""
    return f"{timestamps[0].item():.3f}..{timestamps[-1].item():.3f}"


def _read_rows(path: Path) -> list[tuple[int, list[float]]]:
    """(line number, numbers) of all lines that hold any; all of one length, 8, 12 or 16, all finite."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a trajectory ({type(error).__name__}); check the path"
        ) from None
    rows: list[tuple[int, list[float]]] = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        is_heading = not rows and not any(map(is_number, words_of(line)))
        if is_heading or line.lstrip().startswith("#"):
            _refuse_scalar_first(line, path)
        elif line.strip():
            num_expected = len(rows[0][1]) if rows else None
            rows.append((line_number, _parse_row(line, f"{path}, line {line_number}", num_expected)))
    if not rows:
        raise UserError(f"{path} has no poses; give a trajectory in TUM or KITTI format")
    return rows


def _parse_row(line: str, where: str, num_expected: int | None) -> list[float]:
    """The numbers of one line."""
    try:
        row = [as_number(word) for word in words_of(line)]
    except ValueError as error:
        raise UserError(
            f"{where}: {error}, so this is not a line of numbers; give TUM or KITTI format"
        ) from None
    if len(row) not in (NUM_TUM, NUM_KITTI, NUM_SQUARE):
        raise UserError(
            f"{where}: {len(row)} numbers, but TUM has {NUM_TUM} and KITTI {NUM_KITTI} or {NUM_SQUARE}; "
            "convert the file"
        )
    if num_expected not in (None, len(row)):
        raise UserError(
            f"{where}: {len(row)} numbers after lines of {num_expected}; repair or remove the line"
        )
    if not all(map(math.isfinite, row)):
        raise UserError(f"{where}: a number is not finite; repair or remove the line")
    return row


def _refuse_scalar_first(heading: str, path: Path) -> None:
    """Raise UserError for a heading that names a quaternion w x y z, as EuRoC's files have it."""
    names = [word.strip("#[]\"'").lower() for word in words_of(heading)]
    order = [name[-1] for name in names if re.fullmatch(r"q\w*[wxyz]", name)]
    if order[:1] == ["w"]:
        raise UserError(
            f"{path}: its heading '{heading.strip()[:60]}' has the quaternion as w x y z, TUM's is x y z w; put w last"
        )


def _check_last_rows(rows: Tensor, path: str | os.PathLike[str], line_numbers: list[int]) -> None:
    """Raise UserError unless all matrices [S, 16] end with 0 0 0 1, as poses do and transposed ones do not."""
    bad = ((rows[:, NUM_KITTI:] - rows.new_tensor([0, 0, 0, 1])).abs() > MAX_ROUNDING).any(dim=1)
    if bad.any():
        line = line_numbers[int(bad.int().argmax())]
        raise UserError(
            f"{path}, line {line}: the 4 x 4 matrix does not end with 0 0 0 1; give it row by row"
        )


def _check_rotations(rotation: Tensor, path: str | os.PathLike[str], line_numbers: list[int]) -> None:
    """Raise UserError unless all matrices [S, 3, 3] are rotations but for the rounding of the file."""
    deviation = (rotation @ rotation.mT - torch.eye(3, dtype=rotation.dtype)).abs().amax(dim=(1, 2))
    bad = (deviation > MAX_ROTATION_ERROR) | (torch.linalg.det(rotation) < 0)
    if bad.any():
        line = line_numbers[int(bad.int().argmax())]
        raise UserError(
            f"{path}, line {line}: the 3 x 3 block is no rotation; remove any scale from the matrices"
        )
