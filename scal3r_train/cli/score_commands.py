"""score: results against ground truth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands


def add_score_commands(commands: "Commands") -> None:
    """Add score trajectory."""
    score = commands.add_parser("score", help="Score results against ground truth.")
    kinds = score.add_subparsers(title="what to score", metavar="WHAT", required=True)
    trajectory = add_command(
        kinds,
        "trajectory",
        _score_trajectory,
        "Print one JSON line: ATE after alignment, KITTI's relative errors, scale, number of poses.",
        "scal3r score trajectory estimate.tum truth.tum --align sim3",
    )
    trajectory.add_argument("estimate", metavar="EST", type=Path, help="TUM or KITTI poses, detected")
    trajectory.add_argument("ground_truth", metavar="GT", type=Path, help="TUM or KITTI poses, detected")
    trajectory.add_argument("--align", choices=("sim3", "se3", "none"), default="sim3", help="default: sim3")
    trajectory.add_argument(
        "--max-time-difference",
        type=float,
        default=0.01,
        metavar="SECONDS",
        help="largest gap at which timestamps match; default: 0.01",
    )


def _score_trajectory(arguments: argparse.Namespace) -> int | None:
    from scal3r_eval import score

    return score.main(
        arguments.estimate, arguments.ground_truth, arguments.align, arguments.max_time_difference
    )
