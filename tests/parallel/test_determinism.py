"""`parallel.deterministic`: torch is told, and everything that a step does on the CPU has a deterministic kernel."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.determinism import choose_kernels
from scal3r_train.parallel.process import joined_processes
from scal3r_train.parallel.settings import ParallelSettings
from tests.training import tiny


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_kernels(deterministic=True)
    yield
    choose_kernels(deterministic=False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("deterministic")
def test_a_run_is_the_same(towns: Path, tmp_path: Path) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    changes = {"optim.num_steps": 2, "validation.every": 2}
    tiny.train(tiny.recipe(towns, tmp_path / "deterministic", changes))
    choose_kernels(deterministic=False)
    tiny.train(tiny.recipe(towns, tmp_path / "any", changes))
    assert tiny.metrics(tmp_path / "deterministic") == tiny.metrics(tmp_path / "any")


def test_gathering_in_bf16_is_for_fsdp2() -> None:
    settings = ParallelSettings(precision="bf16", gathered_dtype="bf16")
    with joined_processes() as process, pytest.raises(UserError, match="gathered_dtype: bf16 is for fsdp2"):
        build_engine(settings, process, 1)
