"""Which runs the tests of the engines make, and how their recipes differ from the tiny one."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

SHARDED = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
# Of which quick tests stop and start runs, and those that differ from one of these by settings of the library alone
# or are stopped elsewhere (ddp: tests/training/test_resume.py).
RESTARTED, RESTARTED_SLOWLY = ("zero2", "zero3", "fsdp2"), ("ddp", "zero1", "zero3_offload")
# Each of which skips a step, compared with the first.
SKIPPING = ("ddp", *RESTARTED)
# Made once more with its blocks gathered in bf16.
GATHERED = ("fsdp2", "bf16", "none")
PRECISIONS = ("fp32", "bf16")
CHECKPOINTING = ("none", "blocks", "segments")
Run = tuple[str, str, str]  # engine, precision, activation checkpointing


def table_runs() -> list[Run]:
    """Every combination."""
    return list(product(SHARDED, PRECISIONS, CHECKPOINTING))


def quick_runs() -> list[Run]:
    """Every engine once in fp32, and the hardest combination of each sharding library."""
    return [
        *((engine, "fp32", "none") for engine in SHARDED),
        ("zero3", "bf16", "segments"),
        ("fsdp2", "bf16", "segments"),
    ]


def folder_of(base: Path, run: Run) -> Path:
    """Return the folder of a run."""
    return base / "_".join(run)


def changes_for(run: Run, num_steps: int = 5) -> dict[str, Any]:
    """Return how a run's recipe differs from the tiny one: two ranks share the four chunks that one process has."""
    engine, precision, checkpointing = run
    shared = {"curriculum.group_size": {"2": 1.0}, "curriculum.chunks_per_rank": {"2": 1.0}}
    alone = {"curriculum.chunks_per_rank": {"4": 1.0}}
    return {
        **(alone if engine == "single" else shared),
        "parallel.engine": engine,
        "parallel.precision": precision,
        "model.activation_checkpointing": checkpointing,
        "optim.num_steps": num_steps,
        "optim.memory_lr": 1e-4,
        "optim.backbone_lr": 1e-4,
        "optim.ema_decay": 0.9,
        "validation.every": 0,
        "checkpoint.every": 2 if num_steps <= 5 else num_steps,
    }
