"""One of two ranks: trains the same run under every engine. Forked by test_engines.py; alone:

torchrun --nproc-per-node 2 tests/parallel/engine_worker.py TOWNS_INDEX OUTPUT_FOLDER quick|rest|table
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from scal3r_train.parallel.context_groups import connect_memories
from scal3r_train.parallel.engine import Engine
from scal3r_train.parallel.fsdp2 import Fsdp2Engine
from scal3r_train.parallel.process import Process, joined_processes
from scal3r_train.parallel.torch_engine import ReplicatedEngine
from scal3r_train.parallel.zero import ZeroEngine
from scal3r_train.training import trainer
from tests.parallel.engine_runs import (
    GATHERED,
    RESTARTED,
    RESTARTED_SLOWLY,
    SKIPPING,
    changes_for,
    folder_of,
    quick_runs,
    table_runs,
)
from tests.training import tiny


def quick(towns: Path, folder: Path, process: Process) -> None:
    """A few runs, some engines stopped and resumed, each skipping a step."""
    for run in quick_runs():
        with noted_predictions(folder_of(folder, run)):
            tiny.train(tiny.recipe(towns, folder_of(folder, run), changes_for(run)))
    gathered = changes_for(GATHERED) | {"parallel.gathered_dtype": "bf16"}
    tiny.train(tiny.recipe(towns, folder / "gathered", gathered))
    restart(towns, folder, process, RESTARTED)
    for engine in SKIPPING:
        skip_one_step(towns, folder / f"skipped_{engine}", engine)


def rest(towns: Path, folder: Path, process: Process) -> None:
    """The other engines stopped and resumed."""
    for engine in RESTARTED_SLOWLY:
        run = (engine, "fp32", "none")
        tiny.train(tiny.recipe(towns, folder_of(folder, run), changes_for(run)))
    restart(towns, folder, process, RESTARTED_SLOWLY)
    for engine in RESTARTED_SLOWLY:
        skip_one_step(towns, folder / f"skipped_{engine}", engine)


def restart(towns: Path, folder: Path, process: Process, engines: tuple[str, ...]) -> None:
    """Each engine stopped and resumed, under itself and under the next one."""
    for place, engine in enumerate(engines):
        resumed = folder / f"resumed_{engine}"
        with tiny.killed_after(3):
            tiny.train(tiny.recipe(towns, resumed, changes_for((engine, "fp32", "none"))))
        other = engines[(place + 1) % len(engines)]
        moved = folder / f"moved_{engine}_to_{other}"
        copy_run(resumed, moved, process)
        tiny.train(tiny.recipe(towns, resumed, changes_for((engine, "fp32", "none"))))
        tiny.train(tiny.recipe(towns, moved, changes_for((other, "fp32", "none"))))


@contextmanager
def noted_predictions(folder: Path) -> Iterator[None]:
    """Write what the engine's own forward predicts once the run is over."""
    closes: dict[type[Engine], Any] = {}

    def close(engine: Engine) -> None:
        engine.bare_model.eval()
        connect_memories(engine.bare_model, None)
        images = torch.rand(1, 2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            output = engine.forward(images, None)
        if engine.process.is_main:
            save_file(
                {name: output[name].contiguous() for name in ("pose_encoding", "depth")},
                folder / "predictions.safetensors",
            )
        closes[type(engine)](engine)

    kinds = [ReplicatedEngine, ZeroEngine, Fsdp2Engine]
    for kind in kinds:
        closes[kind], kind.close = kind.close, close
    try:
        yield
    finally:
        for kind in kinds:
            kind.close = closes[kind]


def skip_one_step(towns: Path, folder: Path, engine: str) -> None:
    """Train two steps of which the first is skipped over its loss alone: the gradient is finite."""
    original, calls = trainer.train_step, []

    def step(engine: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            return original(engine, *rest)
        update, engine.update = engine.update, lambda norm: engine.skip_update()
        try:
            return original(engine, *rest)
        finally:
            engine.update = update

    with tiny.replaced("train_step", step):
        tiny.train(tiny.recipe(towns, folder, changes_for((engine, "fp32", "none")) | {"optim.num_steps": 2}))


def copy_run(source: Path, target: Path, process: Process) -> None:
    """Copy a run's folder once, while all wait."""
    if process.is_main:
        shutil.copytree(source, target)
    dist.barrier()


def table(towns: Path, folder: Path) -> None:
    """The whole table, 30 steps each."""
    for run in table_runs():
        tiny.train(tiny.recipe(towns, folder_of(folder, run), changes_for(run, num_steps=30)))


def main(towns: Path, folder: Path, what: str) -> None:
    """Run what is asked for among peers that stay together."""
    with joined_processes() as process:
        if what == "quick":
            quick(towns, folder, process)
        elif what == "rest":
            rest(towns, folder, process)
        else:
            table(towns, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
