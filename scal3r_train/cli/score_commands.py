"""score: results against ground truth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands

ALIGN_MODES = ("sim3", "se3", "scale", "none")
TRUE_POSES_HELP = "TUM or KITTI poses, detected, or INDEX.parquet#sequence_id"
POINT_FLAGS = {
    "--voxel": (
        float,
        "V",
        "thin both clouds to one point per cube of this edge; default: T / 10; 0: all points",
    ),
    "--est-trajectory": (str, "A", "cameras of EST: TUM or KITTI poses; default: those of a scene folder"),
    "--gt-trajectory": (str, "B", f"their true poses: {TRUE_POSES_HELP}"),
    "--icp-max-distance": (float, "X", "largest distance of points that ICP pairs; default: 10 T"),
    "--max-time-difference": (float, "SECONDS", "largest gap at which timestamps match; default: 0.01"),
}
POINT_CHOICES = {
    "--align": (
        ALIGN_MODES,
        "fit of the cameras that moves the points; default: sim3 with trajectories, else none",
    ),
    "--icp": (("se3", "sim3"), "then refine by the clouds themselves, without or with scale"),
}


def add_score_commands(commands: "Commands") -> None:
    """Add score trajectory and score points."""
    score = commands.add_parser("score", help="Score results against ground truth.")
    kinds = score.add_subparsers(title="what to score", metavar="WHAT", required=True)
    _add_trajectory(kinds)
    _add_points(kinds)


def _add_trajectory(kinds: "Commands") -> None:
    trajectory = add_command(
        kinds,
        "trajectory",
        _score_trajectory,
        "Print one JSON line: ATE after alignment, KITTI's relative errors, RPE, AUC, scale (docs/metrics.md).",
        "scal3r score trajectory estimate.tum truth.tum --align sim3",
    )
    trajectory.add_argument(
        "estimate", metavar="EST", type=Path, help="TUM or KITTI poses, detected, or a scene folder"
    )
    trajectory.add_argument("ground_truth", metavar="GT", help=TRUE_POSES_HELP)
    trajectory.add_argument("--align", choices=ALIGN_MODES, default="sim3", help="default: sim3")
    trajectory.add_argument(
        "--max-time-difference",
        type=float,
        default=0.01,
        metavar="SECONDS",
        help="largest gap at which timestamps match; default: 0.01",
    )
    trajectory.add_argument(
        "--rpe-delta",
        type=float,
        default=1.0,
        metavar="N",
        help="step of the relative pose error; default: 1",
    )
    trajectory.add_argument(
        "--rpe-unit", choices=("frames", "m"), default="frames", help="unit of the step; default: frames"
    )
    trajectory.add_argument(
        "--frames-match",
        choices=("check", "force"),
        default="check",
        help="force: score a scene against a truth of another frame count or other images; default: check",
    )


def _add_points(kinds: "Commands") -> None:
    points = add_command(
        kinds,
        "points",
        _score_points,
        "Print one JSON line: accuracy, completeness, Chamfer, precision, recall, F1 (docs/metrics.md).",
        "scal3r score points scene/points.ply truth.ply --threshold 0.25 --voxel 0.02 "
        "--est-trajectory scene/trajectory.tum --gt-trajectory truth.tum",
    )
    points.add_argument("estimate", metavar="EST", help="PLY or PCD file, or a scene folder")
    points.add_argument(
        "ground_truth",
        metavar="GT",
        help="PLY or PCD file, or INDEX.parquet#sequence_id with depth and poses",
    )
    points.add_argument(
        "--threshold",
        type=float,
        required=True,
        metavar="T",
        help="distance below which a point is right, in GT's units",
    )
    for flag, (kind, metavar, text) in POINT_FLAGS.items():
        points.add_argument(flag, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    for flag, (choices, text) in POINT_CHOICES.items():
        points.add_argument(flag, choices=choices, help=text, default=argparse.SUPPRESS)


def _score_trajectory(arguments: argparse.Namespace) -> int | None:
    from scal3r_eval import score_trajectory as score

    return score.main(
        arguments.estimate,
        arguments.ground_truth,
        arguments.align,
        arguments.max_time_difference,
        (arguments.rpe_delta, arguments.rpe_unit),
        arguments.frames_match,
    )


def _score_points(arguments: argparse.Namespace) -> int | None:
    from scal3r_eval import score_points

    flags = ["--threshold", *POINT_FLAGS, *POINT_CHOICES]
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    options = {name: value for name, value in vars(arguments).items() if name in names}
    return score_points.main(arguments.estimate, arguments.ground_truth, options)
