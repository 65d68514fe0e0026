"""What all tests share: where things are, one thread per process, a fixed seed."""

import os

# Read by torch and numpy when they are first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forking import ForkServer

PROJECT_ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 1800
Torchrun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Give every test the same random numbers, whatever ran before it in the same worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the root of the checkout."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of sample data and goldens (SCAL3R_SHARED, default ../shared); skip when absent."""
    folder = Path(os.environ.get("SCAL3R_SHARED", PROJECT_ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"shared data not found at {folder} (set SCAL3R_SHARED)")
    return folder


@pytest.fixture(scope="session")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the index of four tiny procedural towns: 20 frames of 28 x 42 pixels with depth and poses."""
    from scal3r_data_tools import synth

    folder = tmp_path_factory.mktemp("data") / "towns"
    synth.main(
        folder, ["num_sequences=4", "num_frames=20", "height=28", "width=42", "seed=1", "num_workers=1"]
    )
    return folder / "index.parquet"


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Return what starts programs without the seconds that importing the library takes."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def torchrun(project_root: Path) -> Torchrun:
    """Return a function that runs a script or module on two ranks as a user starts them; `forks` is much cheaper."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
            *map(str, arguments),
        ]
        paths = [str(project_root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        settings = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=LIMIT_S
        )

    return run


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory, towns: Path) -> Callable[..., Path]:
    """Return a function that trains once on this process, with changes to the recipe, and gives the run's folder."""
    from tests.training import tiny

    done: dict[str, Path] = {}

    def run(changes: dict[str, Any] | None = None, index: Path | None = None) -> Path:
        key = json.dumps([changes or {}, str(index)])
        if key not in done:
            folder = tmp_path_factory.mktemp("one_process")
            tiny.train(tiny.recipe(index or towns, folder, changes))
            done[key] = folder
        return done[key]

    return run
