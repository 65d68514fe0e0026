"""All runs on the pretended device, in a process of their own: `python worker.py LIBRARY RESULT.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.fake_cuda.device import pretended_cuda
from tests.fake_cuda.runs import (
    FULL_SIZE,
    SMALL,
    SMALL_SIZE,
    Watched,
    reconstruction,
    streaming,
    training_step,
    validation,
)

RUNS: dict[str, Callable[[], Watched]] = {
    **{
        f"step {precision} {mode}": partial(training_step, SMALL, SMALL_SIZE, precision, mode)
        for precision in ("fp32", "bf16")
        for mode in ("none", "blocks", "segments")
    },
    "logged step": partial(
        training_step, SMALL, SMALL_SIZE, "bf16", "none", is_logged=True, num_micro_steps=2
    ),
    "validation": partial(validation, SMALL, SMALL_SIZE, "bf16"),
    "reconstruction": partial(reconstruction, SMALL, SMALL_SIZE, "float32", "depth", 3),
    "reconstruction bf16": partial(reconstruction, SMALL, SMALL_SIZE, "bfloat16", "head", 3),
    "streaming": partial(streaming, SMALL, SMALL_SIZE, "bfloat16", 3),
    "full step": partial(training_step, {}, FULL_SIZE, "bf16", "blocks"),
    "full reconstruction": partial(reconstruction, {}, FULL_SIZE, "bfloat16", "depth", 1),
}


def run_all(library: Path) -> dict[str, dict[str, object]]:
    """Return what each run did."""
    with pretended_cuda(library):
        return {name: asdict(run()) for name, run in RUNS.items()}


if __name__ == "__main__":
    results = run_all(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(results))
