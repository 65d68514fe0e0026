"""report and view: what is done with a scene folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands

TRUTH_HELP = "ground truth: poses in TUM or KITTI format, or INDEX.parquet#sequence_id"


def add_scene_commands(commands: "Commands") -> None:
    """Add report and view."""
    _add_report(commands)
    _add_view(commands)


def _add_report(commands: "Commands") -> None:
    report = add_command(
        commands,
        "report",
        _report,
        "Write a scene's report.html anew, and with --truth print its trajectory's error.",
        "scal3r report scene/ --truth poses.txt",
    )
    report.add_argument("scene", metavar="SCENE", type=Path, help="scene folder")
    report.add_argument("--truth", metavar="FILE", help=TRUTH_HELP)


def _add_view(commands: "Commands") -> None:
    view = add_command(
        commands,
        "view",
        _view,
        "Show a scene in the browser: points, cameras, chunks, loops, ground truth.",
        "scal3r view scene/ --port 8080",
    )
    view.add_argument("scene", metavar="SCENE", type=Path, help="scene folder; it may be rewritten meanwhile")
    view.add_argument("--port", type=int, help="port; default: 8080 or the next free one")
    view.add_argument("--host", default="127.0.0.1", help="address to listen at; default: this machine only")
    view.add_argument("--truth", metavar="FILE", help=TRUTH_HELP)
    view.add_argument("--max-points", type=int, metavar="N", help="read at most N points; default: all")


def _report(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.inference.seeing import report

    return report.main(arguments.scene, arguments.truth)


def _view(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.inference.seeing import viewer

    return viewer.main(arguments.scene, arguments.port, arguments.host, arguments.truth, arguments.max_points)
