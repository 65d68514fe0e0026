"""reconstruct and convert: what is done with weights."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands


def add_model_commands(commands: "Commands") -> None:
    """Add reconstruct and convert."""
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
        "Turn an official Scal3R or VGGT checkpoint into a folder for from_pretrained.",
        "scal3r convert scal3r.pt checkpoints/scal3r",
    )
    convert.add_argument(
        "source", metavar="SRC", type=Path, help="checkpoint: .safetensors, or .pt of tensors only"
    )
    convert.add_argument("output", metavar="OUT", type=Path, help="folder to write")


def _reconstruct(arguments: argparse.Namespace) -> int | None:
    recipe, overrides = _split_recipe(arguments.settings)
    if arguments.follow:
        from scal3r_train.inference.streaming import reconstruct_stream

        return reconstruct_stream.main(arguments.input, arguments.output, recipe, overrides)
    from scal3r_train.inference import reconstruct

    return reconstruct.main(arguments.input, arguments.output, recipe, overrides)


def _convert(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.model import convert_checkpoint

    return convert_checkpoint.main(arguments.source, arguments.output)


def _split_recipe(settings: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the recipe that may stand before the overrides, and the overrides."""
    if settings and ("=" not in settings[0] or settings[0].endswith((".yaml", ".yml"))):
        return Path(settings[0]), list(settings[1:])
    return None, list(settings)
