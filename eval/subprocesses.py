"""Runs commands of the project in processes of their own: eval and data_tools do not import each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scal3r_train.config import UserError

# Of the arithmetic, for processes that run side by side: they would get into each other's way.
ONE_THREAD = ("env", "OMP_NUM_THREADS=1")


def run_shown(module: str, *arguments: str, one_thread: bool = False) -> None:
    """Run a module of the project, on request on one thread; its progress and messages are the user's to see.

    Raises:
        UserError: it failed.
    """
    command = [*(ONE_THREAD if one_thread else ()), *_command(module, arguments)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"the step `python -m {_spelled(module, arguments)}` failed; its message is above")


def run_logged(log: Path, module: str, *arguments: str) -> None:
    """Run a module of the project on one thread; what it says is added to a file.

    Raises:
        UserError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [*ONE_THREAD, *_command(module, arguments)]
        code = subprocess.run(command, check=False, stdout=file, stderr=file).returncode
    if code:
        raise UserError(
            f"the step `python -m {_spelled(module, arguments)}` failed; its messages are in {log}"
        )


def run_quietly(*arguments: str) -> None:
    """Run `scal3r ARGUMENTS` and say nothing when it works.

    Raises:
        UserError: it failed, with its reason.
    """
    finished = subprocess.run(
        _command("scal3r_train.cli", arguments),
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["it gave no reason"]
        reason = lines[-1].removeprefix("scal3r: error: ")
        raise UserError(f"`scal3r {' '.join(arguments)}` failed: {reason}")


def _command(module: str, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _spelled(module: str, arguments: tuple[str, ...]) -> str:
    return " ".join([module, *arguments])
