"""One of two ranks: trains what the tests compare with one process, and notes what happened to it.

Forked by conftest.py; alone:  torchrun --nproc-per-node 2 tests/training/rank_worker.py TOWNS_INDEX OUTPUT_FOLDER
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from scal3r_train.config import UserError
from scal3r_train.data import dataset
from scal3r_train.data.sampling.plan import GroupPlan, StepPlan, plan_step
from scal3r_train.losses.targets import Targets
from scal3r_train.parallel.collectives import entered_on_main
from scal3r_train.parallel.folder_lock import Owner, lock_inside, owned
from scal3r_train.parallel.process import joined_processes
from scal3r_train.training import step as step_module
from scal3r_train.training import trainer
from scal3r_train.training.checkpointing.host_copy import HostCopy
from scal3r_train.training.checkpointing.saver import CheckpointSaver
from tests.training import tiny
from tests.training.signalled import signalled_in

SHARED = {"curriculum.group_size": {"2": 1.0}, "curriculum.chunks_per_rank": {"2": 1.0}}
FROZEN = {
    "model.train": "memories",
    "model.frozen_dtype": "bf16",
    "parallel.precision": "bf16",
    "validation.every": 0,
}

BROKEN = {"seed": 4, "data.max_fallback_share": 1.0, "optim.num_steps": 8, "validation.every": 0}


def one_sequence_per_rank(curriculum: Any, sources: Any, seed: int, step: int, world_size: int) -> StepPlan:
    """Give each of two ranks one of the two sequences that a single process would see side by side."""
    plan = plan_step(curriculum, sources, seed, step, 1)
    windows = plan.groups[0].windows
    if len(windows) != 2:  # validation
        return plan_step(curriculum, sources, seed, step, world_size)
    groups = (GroupPlan(range(1), windows[:1]), GroupPlan(range(1, 2), windows[1:]))
    return StepPlan(step, plan.shape, groups)


@contextmanager
def noted_steps() -> Iterator[list[dict[str, Any]]]:
    """Note for each step whether it was applied, which sequences it named, and what this rank had read."""
    notes: list[dict[str, Any]] = []
    original = trainer.train_step

    def step(engine: Any, groups: Any, micro_steps: Any, *rest: Any) -> Any:
        before = torch.cat([p.detach().flatten().clone() for p in engine.bare_model.parameters()])
        result = original(engine, groups, micro_steps, *rest)
        after = torch.cat([p.detach().flatten() for p in engine.bare_model.parameters()])
        notes.append(
            {
                "is_applied": result.is_applied,
                "culprits": list(result.culprits),
                "has_moved": not torch.equal(before, after),
                "sequences": [name for micro in micro_steps for name in micro.batch.sequence_ids],
                "lr": next(iter(engine.learning_rates.values())),
            }
        )
        return result

    with tiny.replaced("train_step", step):
        yield notes


@contextmanager
def poisoned_targets(rank: int, calls: range) -> Iterator[None]:
    """Put a NaN into the depth targets of one rank in some of its steps."""
    original, count = step_module.build_targets, 0

    def build(*arguments: Any, **kwargs: Any) -> Targets:
        nonlocal count
        targets = original(*arguments, **kwargs)
        count += 1
        if dist.get_rank() != rank or count - 1 not in calls:
            return targets
        return replace(targets, pose_encoding=targets.pose_encoding * float("nan"))

    step_module.build_targets = build
    try:
        yield
    finally:
        step_module.build_targets = original


@contextmanager
def failing_writer(rank: int, method: str, step: int) -> Iterator[None]:
    """Let the thread of one rank find no room on the disk when it writes the checkpoint of a step."""
    cls = HostCopy if method == "write" else CheckpointSaver
    original = getattr(cls, method)

    def fail(self: Any, place: Path, *rest: Any) -> Any:
        if dist.get_rank() == rank and f"{step:08d}" in place.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, place, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, method, fail)
        yield


def error_of(recipe: Any) -> str:
    """Return the line with which a run ends on this rank."""
    try:
        tiny.train(recipe)
    except UserError as error:
        return str(error)
    return ""


def owned_elsewhere(folder: Path) -> list[Any]:
    """Return what a rank sees of a folder that it may own, then of one that a process elsewhere does."""

    def take() -> list[str]:
        with entered_on_main(lambda: owned(lock_inside(folder), "run")):
            dist.barrier()
            seen = [path.suffix for path in lock_inside(folder).iterdir()]
            dist.barrier()
        return seen

    held = take()
    dist.barrier()
    if dist.get_rank() == 0:
        lock_inside(folder).mkdir()
        owner = replace(Owner.this_process(), host="elsewhere")
        (lock_inside(folder) / "0.json").write_text(json.dumps(asdict(owner)))
    dist.barrier()
    try:
        return [held, take()]
    except UserError as error:
        return [held, str(error)]


def main(towns: Path, folder: Path) -> None:
    """Run all scenarios among peers that stay together."""
    with joined_processes():
        run_scenarios(towns, folder)


def run_scenarios(towns: Path, folder: Path) -> None:
    """Run all scenarios."""
    notes: dict[str, Any] = {}

    def run(name: str, changes: dict[str, Any], index: Path = towns) -> None:
        tiny.train(tiny.recipe(index, folder / name, SHARED | changes))

    run("shared", {})
    rank = dist.get_rank()
    run("silent", {"telemetry.log_every": 1000})
    for mode in ("blocks", "segments"):
        run(mode, {"model.activation_checkpointing": mode})
    run("frozen", FROZEN)
    run("accumulated", {"optim.accumulation_steps": 2, "optim.num_steps": 3})

    with signalled_in(2, signal.SIGTERM) if rank == 1 else nullcontext():
        notes["stopped"] = tiny.train(tiny.recipe(towns, folder / "stopped", SHARED))
    run("stopped", {})

    with tiny.killed_after(3):
        run("resumed", {})
    run("resumed", {})

    stopping = {"validation.every": 1, "checkpoint.best": "val/loss", "checkpoint.keep_last": 1}
    stopping |= {"validation.early_stopping": {"patience": 1, "min_delta": 1000.0}}
    notes["stopped_early"] = tiny.train(tiny.recipe(towns, folder / "stopped_early", SHARED | stopping))
    for average in ("chunk", "sequence"):
        shared = {f"validation.{key}": value for key, value in SHARED.items()}
        changes = {"losses.average": average, "losses.normalization": average, "optim.num_steps": 1}
        run(f"validated_{average}", shared | changes)

    for name, method, bad_rank in (("other_rank", "write", 1), ("main_rank", "_complete", 0)):
        with failing_writer(bad_rank, method, 4):
            notes[f"full_disk_of_{name}"] = error_of(
                tiny.recipe(towns, folder / f"full_disk_of_{name}", SHARED)
            )

    if rank == 0:
        tiny.write_uneven_towns(towns, folder / "uneven.parquet")
        tiny.write_broken_town(towns, folder)
        tiny.write_partly_broken_towns(towns, folder)
    dist.barrier()
    separate = {"curriculum.sequences_per_group": 2, "curriculum.chunks_per_rank": {"4": 1.0}}
    with tiny.replaced("plan_step", one_sequence_per_rank, dataset):
        for average in ("chunk", "sequence"):
            changes = separate | {"losses.average": average, "losses.normalization": average}
            run(f"separate_{average}", changes, folder / "uneven.parquet")
        with poisoned_targets(1, range(1, 2)), noted_steps() as notes["poisoned_once"]:
            run("poisoned_once", separate)
        always = tiny.recipe(towns, folder / "poisoned", SHARED | separate | {"optim.num_steps": 20})
        with poisoned_targets(1, range(99)), noted_steps() as notes["poisoned_steps"]:
            notes["poisoned"] = error_of(always)

    run("partly_broken", BROKEN, folder / "partly.parquet")
    run("partly_broken_alone", BROKEN | {"curriculum.group_size": {"1": 1.0}}, folder / "partly.parquet")
    guarded = {
        "optim.backbone_lr": 100.0,
        "validation.every": 1,
        "validation.guard": {"metric": "val/rotation_deg", "ratio": 1.0, "patience": 1},
    }
    notes["regressed"] = error_of(tiny.recipe(towns, folder / "regressed", SHARED | guarded))

    one_chunk = {
        "curriculum.chunks_per_rank": {"1": 1.0},
        "curriculum.reverse_probability": 0.0,
        "data.max_skipped_frames": 0.0,
        "validation.every": 0,
    }
    notes["truncated"] = error_of(
        tiny.recipe(folder / "index.parquet", folder / "truncated", SHARED | one_chunk)
    )
    notes["owned"] = owned_elsewhere(folder / "owned")
    notes["unwritable"] = error_of(tiny.recipe(towns, folder / "index.parquet" / "run", SHARED))
    (folder / f"rank{rank}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
