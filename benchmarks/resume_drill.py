"""Kill a run at random moments, in steps and while saving, resume it, and compare with the run that was left alone.

Run: OMP_NUM_THREADS=1 python -m benchmarks.resume_drill [--kills 50] [--engine ddp] [--ranks 2] [--seed 0]

Every kill is SIGKILL to all processes at once. Half of them wait for a checkpoint that is being written (its
`.partial` folder), the others for a step; both then wait a random fraction of a step more. A run that comes to its
end is compared (metrics of every step, weights, moments, moving average, counts, random state: bit for bit) and the
next one begins, until there were enough kills. Prints a line per run and the totals; exit code 0 only without
mismatch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.tiny_run import TINY_RUN
from scal3r_data_tools import synth
from scal3r_train.training.checkpointing.checkpoint_files import StateReader

NUM_STEPS, SAVE_EVERY = 60, 2
LIMIT_S = 300
ROOT = Path(__file__).resolve().parent.parent
CHANGES: dict[str, Any] = {
    "curriculum": {
        **TINY_RUN["curriculum"],
        "group_size": {"1": 0.5, "2": 0.5},
        "chunks_per_rank": {"1": 0.5, "2": 0.5},
    },
    "optim": {"num_steps": NUM_STEPS, "memory_lr": 1e-3, "backbone_lr": 1e-3, "ema_decay": 0.9},
    "checkpoint": {"every": SAVE_EVERY},
}


@dataclass
class Totals:
    """What the drill counts."""

    kills: int = 0
    kills_while_saving: int = 0
    resumes: int = 0
    runs: int = 0
    mismatches: int = 0
    lost_steps: int = 0


def launch(recipe: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it, in a process group of its own."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *("-m", "scal3r_train.train", str(recipe)),
    ]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    log = (recipe.parent / "log").open("ab")
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def kill(run: subprocess.Popen[bytes]) -> None:
    """Kill the launcher and all ranks at once: torchrun gives its workers sessions of their own."""
    children = _descendants(run.pid)
    for pid in (run.pid, *children):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    run.wait()


def wait_for_moment(run: subprocess.Popen[bytes], output: Path, draw: random.Random) -> str:
    """Return what the run is doing at a random moment: "saving", "step", or "ended" when it came to its end first."""
    wants_saving = draw.random() < 0.5
    begun = _count_lines(output)
    num_steps = draw.randint(1, 4)
    deadline = time.monotonic() + LIMIT_S
    while run.poll() is None:
        if time.monotonic() > deadline:
            kill(run)
            raise SystemExit(f"the run hangs; see {output.parent / 'log'}")
        is_saving = any((output / "checkpoints").glob("*.partial"))
        has_stepped = _count_lines(output) >= begun + num_steps
        if (wants_saving and is_saving and has_stepped) or (not wants_saving and has_stepped):
            time.sleep(draw.uniform(0, 0.03 if wants_saving else 0.15))
            return "saving" if any((output / "checkpoints").glob("*.partial")) else "step"
        time.sleep(0.001)
    return "ended"


def state_of(output: Path) -> dict[str, Any]:
    """Return all that a finished run left: metrics without times, and the last checkpoint's state."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    last = sorted((output / "checkpoints").glob("step_????????"))[-1]
    manifest = json.loads((last / "manifest.json").read_text())
    reader = StateReader(last, manifest["pieces"])
    state: dict[str, Any] = {
        "metrics": [
            {key: line[key] for key in ("step", "loss", "grad_norm")} for line in lines if "loss" in line
        ],
        "progress": manifest["progress"],
        "random": manifest["random"],
    }
    for name, entry in manifest["parameters"].items():
        for kind in ("weight", "exp_avg", "exp_avg_sq", "ema"):
            if reader.has(kind, name):
                state[f"{kind}/{name}"] = reader.read(kind, name, 0, math.prod(entry["shape"]))
    return state


def differences(state: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the keys whose values are not equal bit for bit."""
    keys = sorted(state.keys() | expected.keys())
    return [key for key in keys if not _is_equal(state.get(key), expected.get(key))]


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def _count_lines(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _newest_step(output: Path) -> int:
    names = [path.name for path in (output / "checkpoints").glob("step_????????")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def _descendants(pid: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        children = [child for child, other in parents.items() if other == parent]
        found += children
        queue += children
    return found


def write_recipe(folder: Path, index: Path, engine: str) -> Path:
    """Write the recipe of a run into its folder."""
    folder.mkdir()
    document = (
        TINY_RUN
        | CHANGES
        | {
            "output_dir": str(folder / "run"),
            "data": {"sources": [{"index": str(index)}]},
            "parallel": {"engine": engine},
        }
    )
    path = folder / "recipe.json"  # JSON is YAML
    path.write_text(json.dumps(document))
    return path


def drill(arguments: argparse.Namespace, folder: Path) -> Totals:
    """Run the reference and the killed runs."""
    draw, totals = random.Random(arguments.seed), Totals()
    towns = folder / "towns"
    synth.main(
        towns, ["num_sequences=4", "num_frames=24", "height=28", "width=42", "seed=1", "num_workers=1"]
    )
    index = towns / "index.parquet"
    reference = write_recipe(folder / "reference", index, arguments.engine)
    if launch(reference, arguments.ranks).wait(LIMIT_S) != 0:
        raise SystemExit(f"the reference run fails; see {reference.parent / 'log'}")
    expected = state_of(reference.parent / "run")
    while totals.kills < arguments.kills:
        totals.runs += 1
        recipe = write_recipe(folder / f"run{totals.runs}", index, arguments.engine)
        output = recipe.parent / "run"
        while True:
            run = launch(recipe, arguments.ranks)
            moment = wait_for_moment(run, output, draw) if totals.kills < arguments.kills else "ended"
            if moment == "ended":
                break
            kill(run)
            totals.kills += 1
            totals.resumes += 1
            totals.kills_while_saving += moment == "saving"
            totals.lost_steps += max(0, _count_lines(output) - _newest_step(output))
        if run.wait(LIMIT_S) != 0:
            raise SystemExit(f"a resumed run fails; see {recipe.parent / 'log'}")
        found = differences(state_of(output), expected)
        totals.mismatches += bool(found)
        print(
            f"run {totals.runs}: {totals.kills} kills so far; "
            f"{'equal' if not found else 'DIFFERENT in ' + ', '.join(found[:5])}",
            flush=True,
        )
        shutil.rmtree(output)
    return totals


def main() -> int:
    """Drill, print the totals, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--engine", default="ddp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        totals = drill(arguments, Path(folder))
    print(
        f"{arguments.engine} on {arguments.ranks} ranks: kills {totals.kills} (while saving "
        f"{totals.kills_while_saving}), resumes {totals.resumes}, runs {totals.runs}, mismatches "
        f"{totals.mismatches}, lost steps {totals.lost_steps}"
    )
    return int(totals.mismatches > 0)


if __name__ == "__main__":
    sys.exit(main())
