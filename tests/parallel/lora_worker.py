"""One of two ranks: trains adapters and memories under some engines. Forked by test_lora_engines.py; alone:

torchrun --nproc-per-node 2 tests/parallel/lora_worker.py TOWNS_INDEX BASE OUTPUT_FOLDER quick|slow
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from scal3r_train.parallel.process import joined_processes
from tests.parallel.engine_runs import Run, changes_for, folder_of
from tests.training import tiny

QUICK: list[Run] = [(engine, "fp32", "none") for engine in ("ddp", "zero2", "fsdp2")]
SLOW: list[Run] = [
    *((engine, "fp32", "none") for engine in ("zero1", "zero3", "zero3_offload")),
    *((engine, "bf16", "blocks") for engine in ("ddp", "zero2", "zero3", "fsdp2")),
    ("fsdp2", "bf16", "segments"),
]


def lora_changes(base: Path, run: Run) -> dict[str, Any]:
    """How the recipe of a run that trains adapters differs from the tiny one."""
    model = {"checkpoint": str(base), "train": "memories", "lora": {"rank": 4, "alpha": 8}}
    if run[1] == "bf16":
        model["frozen_dtype"] = "bf16"
    return {"model": model} | changes_for(run) | {"optim.memory_lr": 1e-3, "optim.backbone_lr": 1e-3}


def main(towns: Path, base: Path, folder: Path, what: str) -> None:
    """Every run once to its end and once stopped and resumed, among peers that stay together."""
    with joined_processes():
        for run in QUICK if what == "quick" else SLOW:
            changes = lora_changes(base, run)
            tiny.train(tiny.recipe(towns, folder_of(folder, run), changes))
            resumed = tiny.recipe(towns, folder_of(folder / "resumed", run), changes)
            with tiny.killed_after(3):
                tiny.train(resumed)
            tiny.train(resumed)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
