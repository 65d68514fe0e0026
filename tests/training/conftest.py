"""Two gloo ranks, started once for all tests of this folder, and runs on one process to compare with."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.forking import ForkServer
from tests.training import tiny


@dataclass(frozen=True)
class Ranks:
    """What two ranks did: the folders of their runs, and what each rank noted about each run."""

    folder: Path
    notes: list[dict[str, Any]]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path) -> Ranks:
    """Run the worker's scenarios, once even when several test processes ask."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "training_ranks"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            done = forks.run_ranks(2, "tests/training/rank_worker.py", towns, folder)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "done").touch()
    return Ranks(folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)])


@pytest.fixture(scope="session")
def uneven_towns(tmp_path_factory: pytest.TempPathFactory, towns: Path) -> Path:
    return tiny.write_uneven_towns(towns, tmp_path_factory.mktemp("uneven") / "index.parquet")
