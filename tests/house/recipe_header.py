"""What the first comment of a training recipe says: the commands that run it, and on how many processes."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from scal3r_train.cli import build_parser
from tests.conftest import PROJECT_ROOT

PROGRAMS = ("scal3r", "torchrun", "accelerate", "sbatch")
TRAIN_MODULE = "scal3r_train.train"
ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
LAUNCH_FOLDER = PROJECT_ROOT / "recipes" / "accelerate"


@dataclass(frozen=True)
class Launch:
    """A command that starts training: on which recipe, with which changes, as how many processes."""

    recipe: str
    overrides: tuple[str, ...]
    world_size: int


def header_of(path: Path) -> list[str]:
    """Return the first comment's lines without their `#`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#") for line in lines[:end]]


def commands_of(path: Path) -> list[list[str]]:
    """Return the header's commands, those lines that are indented and begin with a program, as words."""
    lines = [line.strip() for line in header_of(path) if line.startswith("   ")]
    return [shlex.split(line) for line in lines if line.split()[0] in PROGRAMS]


def launches_of(path: Path) -> list[Launch]:
    """Return the commands that start training, read by the parsers of the programs that they name."""
    readers = {"scal3r": _scal3r, "torchrun": _torchrun, "accelerate": _accelerate, "sbatch": _sbatch}
    found = [readers[program](words) for program, *words in commands_of(path)]
    return [launch for launch in found if launch is not None]


def _scal3r(words: list[str]) -> Launch | None:
    with contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            arguments = build_parser().parse_args(words)
        except SystemExit:
            raise AssertionError(complaint.getvalue()) from None
    if words[0] != "train":
        return None
    return Launch(str(arguments.recipe), tuple(arguments.overrides), 1)


def _torchrun(words: list[str]) -> Launch:
    arguments = get_args_parser().parse_args(words)
    assert arguments.module and arguments.training_script == TRAIN_MODULE
    recipe, *overrides = arguments.training_script_args
    return Launch(
        recipe, tuple(overrides), int(arguments.nnodes.split(":")[0]) * int(arguments.nproc_per_node)
    )


def _accelerate(words: list[str]) -> Launch:
    assert words[0] == "launch"
    arguments = launch_command_parser().parse_args(words[1:])
    assert arguments.module and arguments.training_script == TRAIN_MODULE
    config = PROJECT_ROOT / arguments.config_file
    assert config.parent == LAUNCH_FOLDER and config.stem in ENGINES and config.suffix == ".yaml"
    assert config.is_file() or not LAUNCH_FOLDER.exists()
    recipe, *overrides = arguments.training_script_args
    return Launch(recipe, tuple(overrides), arguments.num_processes)


def _sbatch(words: list[str]) -> Launch:
    options = [word for word in words if word.startswith("--")]
    script, recipe, *overrides = [word for word in words if not word.startswith("--")]
    text = (PROJECT_ROOT / script).read_text(encoding="utf-8") + "\n".join(f"#SBATCH {o}" for o in options)
    nodes, tasks = (re.findall(rf"#SBATCH --{name}=(\d+)", text)[-1] for name in ("nodes", "ntasks-per-node"))
    return Launch(recipe, tuple(overrides), int(nodes) * int(tasks))
