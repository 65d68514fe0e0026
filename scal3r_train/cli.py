"""The command `scal3r`; a command is imported inside its handler, so that `scal3r --help` needs no torch."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from scal3r_train import __version__

DEFAULT_PLAN_WORLD_SIZE = 32
DEFAULT_PLAN_STEPS = 1000

Handler = Callable[[argparse.Namespace], int | None]
if TYPE_CHECKING:  # what `add_subparsers` returns has no public name and is generic for the type checker only
    Commands: TypeAlias = argparse._SubParsersAction["OneLineErrorParser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 only on success, 2 after a user's mistake."""
    arguments = build_parser().parse_args(argv)
    # Imported after parsing because it brings pydantic, which --help can do without.
    from scal3r_train.config import run_command

    return run_command(lambda: arguments.handler(arguments))


class OneLineErrorParser(argparse.ArgumentParser):
    """A parser whose complaints are one line on stderr and exit code 2, like every other user's mistake."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave."""
        self.exit(2, f"scal3r: error: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, each with an example in its help."""
    parser = OneLineErrorParser(prog="scal3r", description="Train, reconstruct and score with Scal3R.")
    parser.add_argument("--version", action="version", version=f"scal3r {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_recipe_commands(commands)
    _add_model_commands(commands)
    _add_score_commands(commands)
    _add_data_commands(commands)
    return parser


def _add_command(
    commands: "Commands", name: str, handler: Handler, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add the command `name`, run by `handler`, with a help that ends in an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    """Accept any number of `key.path=value` after the other arguments."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the recipe, dotted paths"
    )


def _add_recipe_commands(commands: "Commands") -> None:
    """Add train, plan and config: the commands whose first argument is a recipe."""
    train = _add_command(
        commands,
        "train",
        _train,
        "Train the model a recipe describes, on this process or on the ranks of torchrun or accelerate.",
        "scal3r train recipes/demo.yaml seed=1",
    )
    plan = _add_command(
        commands,
        "plan",
        _plan,
        "Print who would compute what: context groups, effective lengths, tokens and memory per rank. "
        "world_size and steps are arguments of this command, all other keys change the recipe.",
        "scal3r plan recipes/demo.yaml world_size=32 steps=1000",
    )
    config = _add_command(
        commands,
        "config",
        _config,
        "Print the resolved recipe, every default included, and start nothing.",
        "scal3r config recipes/demo.yaml seed=1",
    )
    for parser in (train, plan, config):
        parser.add_argument("recipe", metavar="RECIPE", type=Path, help="YAML file")
        _add_overrides(parser)


def _add_model_commands(commands: "Commands") -> None:
    """Add reconstruct and convert."""
    reconstruct = _add_command(
        commands,
        "reconstruct",
        _reconstruct,
        "Reconstruct cameras and points from an image folder or one sequence of an index.",
        "scal3r reconstruct images/ scene/",
    )
    reconstruct.add_argument(
        "input", metavar="INPUT", help="image folder, video or INDEX.parquet#sequence_id"
    )
    reconstruct.add_argument("output", metavar="OUT", type=Path, help="scene folder to write")
    reconstruct.add_argument(
        "settings",
        nargs="*",
        metavar="RECIPE|key=value",
        help="at most one recipe first (without: the defaults in code), then changes",
    )
    convert = _add_command(
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


def _add_score_commands(commands: "Commands") -> None:
    """Add score trajectory."""
    score = commands.add_parser("score", help="Score results against ground truth.")
    kinds = score.add_subparsers(title="what to score", metavar="WHAT", required=True)
    trajectory = _add_command(
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


def _add_data_commands(commands: "Commands") -> None:
    """Add data index, check, preview and synth."""
    data = commands.add_parser("data", help="Index, check, look at or make data.")
    kinds = data.add_subparsers(title="data commands", metavar="COMMAND", required=True)
    index = _add_command(
        kinds,
        "index",
        _data_index,
        "Index a data set where it lies; nothing is copied or converted.",
        "scal3r data index seven_scenes downloads/7scenes 7scenes.parquet",
    )
    index.add_argument("dataset", metavar="DATASET", help="name of the adapter; an unknown one lists them")
    index.add_argument("source", metavar="SRC", type=Path, help="folder of the data set")
    index.add_argument("output", metavar="OUT.parquet", type=Path, help="index to write")
    _add_overrides(index)
    check = _add_command(
        kinds,
        "check",
        _data_check,
        "Check files, and whether pixels, depth, poses and intrinsics agree; name the likely mistake where they do "
        "not. Exit code 0 only if all is well. Settings: report=DIR, decode_every=N, num_pairs=N (docs/data/check.md).",
        "scal3r data check 7scenes.parquet report=7scenes_check",
    )
    check.add_argument("index", metavar="INDEX", type=Path, help="Parquet index")
    check.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the check")
    preview = _add_command(
        kinds,
        "preview",
        _data_preview,
        "Write a contact sheet: frames, depth and trajectory of each sequence.",
        "scal3r data preview 7scenes.parquet 7scenes.png",
    )
    preview.add_argument("index", metavar="INDEX", type=Path, help="Parquet index")
    preview.add_argument("output", metavar="OUT.png", type=Path, help="image to write")
    synth = _add_command(
        kinds,
        "synth",
        _data_synth,
        "Make procedural towns with exact poses, depth and intrinsics, and their index.",
        "scal3r data synth runs/towns num_sequences=16",
    )
    synth.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    _add_overrides(synth)


def _train(arguments: argparse.Namespace) -> int:
    from scal3r_train import train

    return train.main([str(arguments.recipe), *arguments.overrides])


def _plan(arguments: argparse.Namespace) -> int | None:
    world_size, overrides = _take_count(arguments.overrides, "world_size", DEFAULT_PLAN_WORLD_SIZE)
    num_steps, overrides = _take_count(overrides, "steps", DEFAULT_PLAN_STEPS)
    from scal3r_train.planning import report

    return report.main(arguments.recipe, overrides, world_size, num_steps)


def _config(arguments: argparse.Namespace) -> None:
    from scal3r_train.config import dump_yaml
    from scal3r_train.recipe import load_recipe

    sys.stdout.write(dump_yaml(load_recipe(arguments.recipe, arguments.overrides)))


def _reconstruct(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.inference import reconstruct

    recipe, overrides = _split_recipe(arguments.settings)
    return reconstruct.main(arguments.input, arguments.output, recipe, overrides)


def _convert(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.model import convert_checkpoint

    return convert_checkpoint.main(arguments.source, arguments.output)


def _score_trajectory(arguments: argparse.Namespace) -> int | None:
    from scal3r_eval import score

    return score.main(
        arguments.estimate, arguments.ground_truth, arguments.align, arguments.max_time_difference
    )


def _data_index(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import index

    return index.main(arguments.dataset, arguments.source, arguments.output, arguments.overrides)


def _data_check(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import check

    return check.main(arguments.index, arguments.overrides)


def _data_preview(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import preview

    return preview.main(arguments.index, arguments.output)


def _data_synth(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import synth

    return synth.main(arguments.output, arguments.overrides)


def _take_count(overrides: Sequence[str], name: str, default: int) -> tuple[int, list[str]]:
    """Return the positive number given as `name=number` (the last one counts) and the other overrides."""
    from scal3r_train.config import UserError

    prefix = f"{name}="
    values = [override.removeprefix(prefix) for override in overrides if override.startswith(prefix)]
    others = [override for override in overrides if not override.startswith(prefix)]
    if not values:
        return default, others
    if not (values[-1].isascii() and values[-1].isdigit() and int(values[-1]) > 0):
        raise UserError(f"{prefix}{values[-1]} is no positive whole number")
    return int(values[-1]), others


def _split_recipe(settings: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the recipe that may stand before the overrides, and the overrides."""
    if settings and ("=" not in settings[0] or settings[0].endswith((".yaml", ".yml"))):
        return Path(settings[0]), list(settings[1:])
    return None, list(settings)


if __name__ == "__main__":
    sys.exit(main())
