"""`scal3r score`: one estimate against one ground truth, as one line of JSON on standard output."""

import json
import math
import sys
from pathlib import Path
from typing import Any, get_args

from scal3r_train.config import UserError
from scal3r_train.metrics.trajectory import AlignMode, score_trajectory
from scal3r_train.metrics.trajectory_io import match_trajectories, read_trajectory


def main(
    estimate: Path, ground_truth: Path, align: AlignMode = "sim3", max_time_difference: float = 0.01
) -> int:
    """Score a trajectory file and print the result; returns 0. Raises UserError as `score_files` does."""
    result = score_files(estimate, ground_truth, align, max_time_difference)
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    return 0


def score_files(
    estimate: Path, ground_truth: Path, align: AlignMode = "sim3", max_time_difference: float = 0.01
) -> dict[str, Any]:
    """Errors of one trajectory file: all of `TrajectoryScore`, the alignment, and how many poses had no
    partner.

    Raises UserError for files or arguments that cannot be scored.
    """
    if align not in get_args(AlignMode):
        raise UserError(f"align is '{align}'; give one of {', '.join(get_args(AlignMode))}")
    if not (math.isfinite(max_time_difference) and max_time_difference >= 0):
        raise UserError(f"the largest time difference is {max_time_difference}; give seconds, 0 or more")
    matched = match_trajectories(
        read_trajectory(estimate), read_trajectory(ground_truth), max_time_difference
    )
    score = score_trajectory(matched.estimate, matched.truth, align)
    return score.as_dict() | {
        "align": align,
        "num_unmatched_estimate": matched.num_unmatched_estimate,
        "num_unmatched_ground_truth": matched.num_unmatched_truth,
    }
