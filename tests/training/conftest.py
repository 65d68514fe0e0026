"""Two gloo ranks, started once for all tests of this folder, and runs on one process to compare with."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training import tiny

LIMIT_S = 900


@dataclass(frozen=True)
class Ranks:
    """What two ranks did: the folders of their runs, and what each rank noted about each run."""

    folder: Path
    notes: list[dict[str, Any]]


Torchrun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def torchrun(project_root: Path) -> Torchrun:
    """Return a function that runs a script or module on two ranks that talk over the loopback interface only."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
            *map(str, arguments),
        ]
        settings = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project_root)}
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=LIMIT_S
        )

    return run


@pytest.fixture(scope="session")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, project_root: Path, torchrun: Torchrun, towns: Path
) -> Ranks:
    """Run the worker's scenarios, once even when several test processes ask."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "training_ranks"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            done = torchrun(project_root / "tests/training/rank_worker.py", towns, folder)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "done").touch()
    return Ranks(folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)])


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory, towns: Path) -> Callable[..., Path]:
    """Return a function that trains once on this process, with changes to the recipe, and gives the run's folder."""
    done: dict[str, Path] = {}

    def run(changes: dict[str, Any] | None = None, index: Path | None = None) -> Path:
        key = json.dumps([changes or {}, str(index)])
        if key not in done:
            folder = tmp_path_factory.mktemp("one_process")
            tiny.train(tiny.recipe(index or towns, folder, changes))
            done[key] = folder
        return done[key]

    return run


@pytest.fixture(scope="session")
def uneven_towns(tmp_path_factory: pytest.TempPathFactory, towns: Path) -> Path:
    return tiny.write_uneven_towns(towns, tmp_path_factory.mktemp("uneven") / "index.parquet")
