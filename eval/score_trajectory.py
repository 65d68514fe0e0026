"""`scal3r score trajectory`: one estimate against one ground truth, as one line of JSON on standard output."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from scal3r_eval.truth_trajectory import match_files
from scal3r_train.config import UserError
from scal3r_train.metrics.relative_pose import RpeStep
from scal3r_train.metrics.trajectory import NEXT_FRAME, AlignMode, score_trajectory


def main(
    estimate: Path,
    ground_truth: str | os.PathLike[str],
    align: AlignMode = "sim3",
    max_time_difference: float = 0.01,
    rpe_step: tuple[float, Literal["frames", "m"]] = (1.0, "frames"),
) -> int:
    """Score a trajectory file and print the result; returns 0. Raises UserError as `score_files` does."""
    result = score_files(estimate, ground_truth, align, max_time_difference, RpeStep(*rpe_step))
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    return 0


def score_files(
    estimate: Path,
    ground_truth: str | os.PathLike[str],
    align: AlignMode = "sim3",
    max_time_difference: float = 0.01,
    rpe_step: RpeStep = NEXT_FRAME,
) -> dict[str, Any]:
    """Errors of one trajectory file: all of `TrajectoryScore`, the alignment, the step of the RPE, and how many
    poses had no partner.

    The ground truth is a TUM or KITTI file, or INDEX.parquet#sequence_id. Raises UserError for files or arguments that
    cannot be scored.
    """
    if align not in get_args(AlignMode):
        raise UserError(f"align is '{align}'; give one of {', '.join(get_args(AlignMode))}")
    if not (math.isfinite(max_time_difference) and max_time_difference >= 0):
        raise UserError(f"the largest time difference is {max_time_difference}; give seconds, 0 or more")
    matched = match_files(estimate, ground_truth, max_time_difference)
    score = score_trajectory(matched.estimate, matched.truth, align, rpe_step)
    return score.as_dict() | {
        "align": align,
        "rpe_delta": rpe_step.delta,
        "rpe_unit": rpe_step.unit,
        "num_unmatched_estimate": matched.num_unmatched_estimate,
        "num_unmatched_ground_truth": matched.num_unmatched_truth,
    }
