"""One rank of a run in which something goes wrong; started by fault_drill.py. The faults live here, not in the library.

torchrun ... benchmarks/fault_worker.py FAULT RECIPE [key=value ...]
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scal3r_train import train
from scal3r_train.config import run_command
from scal3r_train.data import dataset
from scal3r_train.training import step, trainer

FAULTY_RANK = 1
FAULTY_STEP = 5  # steps that begin before it goes wrong; a checkpoint of step 4 exists then
KEPT_FREE = 20_000  # bytes that the full disk still has

RANK = int(os.environ["RANK"])


def start_clock() -> None:
    """Note when it goes wrong."""
    Path(os.environ["DRILL_CLOCK"]).write_text(str(time.time()))


def change_recipe(arguments: list[str], override: str) -> None:
    """Train something else than the other rank."""
    start_clock()
    arguments.append(override)


def before_step(number: int, action: Callable[[], None]) -> None:
    """Do something on this rank when it begins one of its steps."""
    original, count = trainer.train_step, itertools.count(1)

    def train_step(*arguments: Any, **keywords: Any) -> Any:
        if next(count) == number:
            start_clock()
            action()
        return original(*arguments, **keywords)

    trainer.train_step = train_step


def poison_targets(steps: range) -> None:
    """Put NaN into what the model is compared with, in some steps."""
    original, count = step.build_targets, itertools.count(1)

    def build_targets(*arguments: Any, **keywords: Any) -> Any:
        targets = original(*arguments, **keywords)
        call = next(count)
        if call == steps.start:
            start_clock()
        factor = float("nan") if call in steps else 1.0
        return replace(targets, pose_encoding=targets.pose_encoding * factor)

    step.build_targets = build_targets


def fail() -> None:
    """Have a bug."""
    raise ZeroDivisionError("injected bug")


def die() -> None:
    """Be killed from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_absent() -> None:
    """Be stuck before the others can be joined."""
    start_clock()
    time.sleep(3600)


def kill_reader() -> None:
    """Kill a reading process, as the kernel does when memory runs out."""
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def kill_launcher() -> None:
    """Kill torchrun."""
    os.kill(os.getppid(), signal.SIGKILL)


def delete_sequence(folder: Path) -> None:
    """Lose one sequence's files while the run goes on."""
    shutil.rmtree(sorted(path for path in folder.iterdir() if path.is_dir())[0])


def fill_disk(folder: Path) -> None:
    """Leave hardly any space on the run's disk."""
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(b"x" * max(0, free - KEPT_FREE))


def break_reader() -> None:
    """Let reading raise what nobody foresaw."""
    original = dataset.read_pixels

    def read_pixels(*arguments: Any, **keywords: Any) -> Any:
        if next(count) > FAULTY_STEP:
            start_clock()
            raise IndexError("injected bug of a reader")
        return original(*arguments, **keywords)

    count = itertools.count(1)
    dataset.read_pixels = read_pixels


def inject(fault: str, arguments: list[str]) -> None:
    """Prepare this rank for a fault; may change its arguments."""
    data, output = (Path(os.environ[name]) for name in ("DRILL_DATA", "DRILL_OUTPUT"))
    if RANK == 0 and fault == "deleted":
        before_step(FAULTY_STEP, lambda: delete_sequence(data))
    if (
        RANK == 0 and fault == "disk_full"
    ):  # the checkpoint before the one that is being written is on disk then
        before_step(2 * FAULTY_STEP - 1, lambda: fill_disk(output))
    if fault in ("unreachable", "alone", "port_taken", "small_shm"):  # faults of the place, not of a process
        start_clock()
    if RANK != FAULTY_RANK:
        return
    actions: dict[str, Callable[[], None]] = {
        "bug": lambda: before_step(FAULTY_STEP, fail),
        "killed": lambda: before_step(FAULTY_STEP, die),
        "stuck": lambda: before_step(FAULTY_STEP, lambda: time.sleep(3600)),
        "nan_once": lambda: poison_targets(range(FAULTY_STEP, FAULTY_STEP + 1)),
        "nan_always": lambda: poison_targets(range(FAULTY_STEP, 10**9)),
        "reader_killed": lambda: before_step(FAULTY_STEP, kill_reader),
        "reader_bug": break_reader,
        "launcher_killed": lambda: before_step(FAULTY_STEP, kill_launcher),
        "absent": be_absent,
        "other_recipe": lambda: change_recipe(arguments, "optim.memory_lr=0.002"),
        "bad_recipe": lambda: change_recipe(arguments, "optim.memory_rl=0.002"),
    }
    actions.get(fault, lambda: None)()


if __name__ == "__main__":
    given = sys.argv[2:]
    inject(sys.argv[1], given)
    sys.exit(run_command(lambda: train.main(given)))
