"""The command `scal3r`.

    parser.py           how commands are declared
    recipe_commands.py  train, plan, eval, config: those that take a recipe; recipes
    scene_commands.py   reconstruct, export, report, render, view, convert, push
    score_commands.py   score trajectory, score points
    data_commands.py    data index, prepare, check, preview, summary, pack, synth

A command is imported inside its handler, so that `scal3r --help` needs no torch.
"""

import argparse
import sys
from collections.abc import Sequence

from scal3r_train import __version__
from scal3r_train.cli.data_commands import add_data_commands
from scal3r_train.cli.parser import OneLineErrorParser
from scal3r_train.cli.recipe_commands import add_recipe_commands
from scal3r_train.cli.scene_commands import add_model_commands, add_scene_commands
from scal3r_train.cli.score_commands import add_score_commands
from scal3r_train.notes import is_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 only on success, 2 after a user's mistake."""
    parser = build_parser()
    for word in sys.argv[1:] if argv is None else argv:
        if not is_text(word):
            parser.error(f"'{word}' is no UTF-8 text; rename the file or folder")
    arguments = parser.parse_args(argv)
    # Imported after parsing because it brings pydantic, which --help can do without.
    from scal3r_train.config import run_command

    return run_command(lambda: arguments.handler(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, each with an example in its help."""
    parser = OneLineErrorParser(prog="scal3r", description="Train, reconstruct and score with Scal3R.")
    parser.add_argument("--version", action="version", version=f"scal3r {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_recipe_commands(commands)
    add_model_commands(commands)
    add_scene_commands(commands)
    add_score_commands(commands)
    add_data_commands(commands)
    return parser
