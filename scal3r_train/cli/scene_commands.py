"""reconstruct, export, report, render, view, convert and push: what is done with checkpoints and scene folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scal3r_train.cli.parser import add_command

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands


EXPORT_FORMATS = ("colmap", "ply", "las", "laz", "e57", "glb", "nerfstudio", "gaussians", "tum", "kitti")
EXPORT_FLAGS = {
    "--min-confidence": (float, "X", "leave out points below this confidence"),
    "--min-confidence-ratio": (float, "X", "leave out points below this share of their mean confidence"),
    "--voxel-size": (float, "X", "keep one point per cube of this edge, in the scene's units"),
    "--max-points": (int, "N", "keep at most so many points"),
    "--images": (str, "DIR", "where the input images are; without, where they were"),
}
EXPORT_SWITCHES = {
    "--write-images": "colmap, nerfstudio: write the images too, upright and undistorted",
    "--text": "colmap: .txt instead of .bin",
    "--single-camera": "colmap, gaussians: one camera per image size, the median of all",
    "--refine": "colmap: bundle adjustment on SIFT tracks, with the scene's cameras as a start",
    "--overwrite": "replace an earlier export",
}
RENDER_CHOICES = {
    "--path": (("chase", "follow", "orbit", "top"), "where the observer is; default: chase"),
    "--colours": (("image", "confidence", "chunk", "height"), "what colours mean; default: image"),
    "--background": (("dark", "light"), "default: dark"),
}
RENDER_FLAGS = {
    "--seconds": (float, "N", "length; default: that of the frames, from 6 to 60"),
    "--fps": (float, "N", "frames a second; default: 30"),
    "--size": (str, "WxH", "of the video in pixels; default: 1280x720"),
    "--point-size": (float, "X", "larger or smaller points; default: 1"),
    "--hide-doubtful": (float, "PERCENT", "leave out the least confident points"),
    "--max-points": (int, "N", "draw at most so many points; default: 2000000"),
    "--truth": (
        str,
        "FILE",
        "draw the true path too: poses in TUM or KITTI format, or INDEX.parquet#sequence_id",
    ),
}
RENDER_SWITCHES = {
    "--inset": "the input images in a corner",
    "--whole": "all points from the start, instead of those of the frames so far",
    "--overwrite": "replace an existing file",
}
TRUTH_HELP = "ground truth: poses in TUM or KITTI format, or INDEX.parquet#sequence_id"


def add_scene_commands(commands: "Commands") -> None:
    """Add export, report, render and view."""
    _add_export(commands)
    _add_report(commands)
    _add_render(commands)
    _add_view(commands)


def _add_export(commands: "Commands") -> None:
    export = add_command(
        commands,
        "export",
        _export,
        "Write a scene folder in the format of another program (docs/export.md).",
        "scal3r export scene/ --to colmap model/",
    )
    export.add_argument("scene", metavar="SCENE", type=Path, help="scene folder of reconstruct")
    export.add_argument(
        "output", metavar="OUT", type=Path, help="file to write; folder for colmap, nerfstudio, gaussians"
    )
    export.add_argument("--to", choices=EXPORT_FORMATS, required=True, help="format of OUT")
    for flag, (kind, metavar, text) in EXPORT_FLAGS.items():
        export.add_argument(flag, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    for flag, text in EXPORT_SWITCHES.items():
        export.add_argument(flag, action="store_true", help=text, default=argparse.SUPPRESS)


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


def _add_render(commands: "Commands") -> None:
    render = add_command(
        commands,
        "render",
        _render,
        "Make a video of a scene: its points as they are seen, its cameras and their path (docs/viewing.md).",
        "scal3r render scene/ scene.mp4 --path chase --seconds 20",
    )
    render.add_argument("scene", metavar="SCENE", type=Path, help="scene folder of reconstruct")
    render.add_argument(
        "output", metavar="OUT", type=Path, help="video to write: .mp4 .mov .mkv .webm .gif .webp"
    )
    for flag, (choices, text) in RENDER_CHOICES.items():
        render.add_argument(flag, choices=choices, help=text, default=argparse.SUPPRESS)
    for flag, (kind, metavar, text) in RENDER_FLAGS.items():
        render.add_argument(flag, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    for flag, text in RENDER_SWITCHES.items():
        render.add_argument(flag, action="store_true", help=text, default=argparse.SUPPRESS)


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


def _export(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.scene.export import export_scene

    given = _given(arguments, [*EXPORT_FLAGS, *EXPORT_SWITCHES])
    return export_scene.main(arguments.scene, arguments.output, arguments.to, given)


def _given(arguments: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """Return the values of flags that were given, by the names of the options they set."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    return {name: value for name, value in vars(arguments).items() if name in names}


def _report(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.scene.visualization import report

    return report.main(arguments.scene, arguments.truth)


def _render(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.scene.visualization.video import render_video

    given = _given(arguments, [*RENDER_CHOICES, *RENDER_FLAGS, *RENDER_SWITCHES])
    return render_video.main(arguments.scene, arguments.output, given)


def _view(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.scene.visualization import viewer

    return viewer.main(arguments.scene, arguments.port, arguments.host, arguments.truth, arguments.max_points)


def add_model_commands(commands: "Commands") -> None:
    """Add reconstruct, convert and push."""
    reconstruct = add_command(
        commands,
        "reconstruct",
        _reconstruct,
        "Reconstruct cameras and points from images, a video, or one sequence of an index.",
        "scal3r reconstruct images/ scene/ model.checkpoint=checkpoints/scal3r",
    )
    reconstruct.add_argument(
        "input", metavar="INPUT", help="image folder, video or INDEX.parquet#sequence_id"
    )
    reconstruct.add_argument(
        "--follow",
        action="store_true",
        help="INPUT is a folder that grows, or - for images through a pipe (docs/follow.md)",
    )
    reconstruct.add_argument("output", metavar="OUT", type=Path, help="scene folder to write")
    reconstruct.add_argument(
        "settings",
        nargs="*",
        metavar="RECIPE|key=value",
        help="at most one recipe first (without: the defaults in code), then changes",
    )
    convert = add_command(
        commands,
        "convert",
        _convert,
        "Turn an official Scal3R or VGGT checkpoint, or adapters and their base, into a folder for from_pretrained.",
        "scal3r convert scal3r.pt checkpoints/scal3r",
    )
    convert.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="checkpoint: .safetensors, .pt of tensors only, or adapters/ of a run",
    )
    convert.add_argument(
        "--base",
        metavar="FOLDER",
        type=Path,
        help="base of adapters, where it has moved since they were trained",
    )
    convert.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    push = add_command(
        commands,
        "push",
        _push,
        "Publish the weights of a run or folder, with their card and recipe, on the Hugging Face hub.",
        "scal3r push runs/demo USER/scal3r-demo --dry-run",
    )
    push.add_argument("folder", metavar="RUN|FOLDER", type=Path, help="run, or folder of weights")
    push.add_argument("repo_id", metavar="USER/NAME", help="repository; made if it does not exist")
    push.add_argument("--private", action="store_true", help="a new repository is private")
    push.add_argument("--dry-run", action="store_true", help="show files and card, and publish nothing")


def _reconstruct(arguments: argparse.Namespace) -> int | None:
    recipe, overrides = _split_recipe(arguments.settings)
    if arguments.follow:
        from scal3r_train.inference.streaming import reconstruct_stream

        return reconstruct_stream.main(arguments.input, arguments.output, recipe, overrides)
    from scal3r_train.inference import reconstruct

    return reconstruct.main(arguments.input, arguments.output, recipe, overrides)


def _convert(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.config import UserError
    from scal3r_train.model import convert_checkpoint, merge_adapters
    from scal3r_train.parallel.claimed_output import claimed

    is_adapters = merge_adapters.is_adapter_folder(arguments.source)
    if arguments.base is not None and not is_adapters:
        raise UserError(f"--base goes with a folder of adapters, and {arguments.source} is none")
    with claimed(arguments.output, "output", is_folder=True):
        if is_adapters:
            return merge_adapters.main(arguments.source, arguments.output, arguments.base)
        return convert_checkpoint.main(arguments.source, arguments.output)


def _push(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.training.checkpointing import push

    options = {"private": arguments.private, "is_dry_run": arguments.dry_run}
    return push.main(arguments.folder, arguments.repo_id, options)


def _split_recipe(settings: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the recipe that may stand before the overrides, and the overrides."""
    if settings and ("=" not in settings[0] or settings[0].endswith((".yaml", ".yml"))):
        return Path(settings[0]), list(settings[1:])
    return None, list(settings)
