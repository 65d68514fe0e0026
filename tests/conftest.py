"""What all tests share: where things are, one thread per process, a fixed seed."""

import os

# Read by torch and numpy when they are first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch

PROJECT_ROOT = Path(__file__).resolve().parent.parent


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
