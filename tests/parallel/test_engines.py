"""Every engine trains what a single process trains, resumes bit for bit, and hands its runs to every other engine."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import LIMIT_S
from tests.forking import ForkServer
from tests.parallel.engine_runs import (
    GATHERED,
    RESTARTED,
    RESTARTED_SLOWLY,
    SHARDED,
    Run,
    changes_for,
    folder_of,
    quick_runs,
    table_runs,
)
from tests.training import tiny
from tests.training.test_resume import assert_equal_states, newest

FP32_TOLERANCE, BF16_TOLERANCE = 1e-5, 2e-2
ALL_RESTARTED = [*RESTARTED, *(pytest.param(one, marks=pytest.mark.slow) for one in RESTARTED_SLOWLY)]
OneProcess = Callable[..., Path]
pytestmark = pytest.mark.timeout(1800)


def run_worker(what: str, tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path) -> Path:
    """Run the worker once, even when several test processes ask."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"engines_{what}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            program = ("tests/parallel/engine_worker.py", towns, folder, what)
            done = forks.run_ranks(2, *program, timeout=LIMIT_S)
            assert done.returncode == 0, done.stderr[-5000:]
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path) -> Path:
    pytest.importorskip("deepspeed")
    return run_worker("quick", tmp_path_factory, forks, towns)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path) -> Path:
    pytest.importorskip("deepspeed")
    return run_worker("table", tmp_path_factory, forks, towns)


@pytest.fixture
def restarts(engine: str, request: pytest.FixtureRequest) -> Path:
    """The folder in which an engine's runs were stopped and resumed."""
    if engine in RESTARTED:
        folder: Path = request.getfixturevalue("quick")
        return folder
    pytest.importorskip("deepspeed")
    factory, forks, towns = map(request.getfixturevalue, ("tmp_path_factory", "forks", "towns"))
    return run_worker("rest", factory, forks, towns)


def worst_difference(folder: Path, reference: Path) -> float:
    """Return the largest relative difference between the losses of two runs."""
    losses, expected = ([line["loss"] for line in tiny.steps(run)] for run in (folder, reference))
    assert len(losses) == len(expected) > 2
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


def assert_like_single(folder: Path, run: Run, one_process: OneProcess, num_steps: int = 5) -> None:
    """Losses of the engine equal those of one process in the same precision."""
    _, precision, checkpointing = run
    single = one_process(changes_for(("single", precision, checkpointing), num_steps))
    tolerance = FP32_TOLERANCE if precision == "fp32" else BF16_TOLERANCE
    worst = worst_difference(folder_of(folder, run), single)
    print(f"{run[0]:14} {precision} {checkpointing:9} {worst:.1e}")
    assert worst < tolerance


@pytest.mark.exactness
@pytest.mark.parametrize("run", quick_runs(), ids="-".join)
def test_engines_train_alike(quick: Path, one_process: OneProcess, run: Run) -> None:
    assert_like_single(quick, run, one_process)


@pytest.mark.exactness
def test_blocks_may_be_gathered_in_bf16(quick: Path, one_process: OneProcess) -> None:
    """Autocast would round their matrices anyway; norms and biases are rounded too, which other losses show."""
    _, precision, checkpointing = GATHERED
    single = one_process(changes_for(("single", precision, checkpointing)))
    assert 0 < worst_difference(quick / "gathered", single) < BF16_TOLERANCE


@pytest.mark.slow
@pytest.mark.exactness
@pytest.mark.parametrize("run", table_runs(), ids="-".join)
def test_table_of_engines(table: Path, one_process: OneProcess, run: Run) -> None:
    """30 steps of every combination; `pytest tests/parallel -m slow -rP` prints the table."""
    assert_like_single(table, run, one_process, num_steps=30)


@pytest.mark.exactness
@pytest.mark.parametrize("engine", ALL_RESTARTED)
def test_resume_is_bit_for_bit(restarts: Path, engine: str) -> None:
    whole, resumed = folder_of(restarts, (engine, "fp32", "none")), restarts / f"resumed_{engine}"
    assert tiny.metrics(resumed) == tiny.metrics(whole)
    assert_equal_states(tiny.saved_state(newest(resumed)), tiny.saved_state(newest(whole)))


@pytest.mark.exactness
@pytest.mark.parametrize("engine", ALL_RESTARTED)
def test_a_run_moves_to_another_engine(restarts: Path, engine: str) -> None:
    """Weights, moments and averages arrive exactly: what follows differs by no more than the engines do."""
    (moved,) = restarts.glob(f"moved_{engine}_to_*")
    whole = folder_of(restarts, (engine, "fp32", "none"))
    assert worst_difference(moved, whole) < FP32_TOLERANCE
    state, expected = tiny.saved_state(newest(moved)), tiny.saved_state(newest(whole))
    changes = state["progress"].pop("recipe_changes")
    assert [change["key"] for change in changes] == ["parallel.engine"]
    assert expected["progress"].pop("recipe_changes") == []
    assert state["progress"] == expected["progress"]
    tensors = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    for kind in ("weight/", "exp_avg/", "exp_avg_sq/", "ema/"):
        ours, theirs = (
            torch.cat([each[key].double() for key in tensors if key.startswith(kind)])
            for each in (state, expected)
        )
        assert (ours - theirs).norm() < 1e-3 * theirs.norm(), kind


@pytest.mark.exactness
@pytest.mark.parametrize("engine", ALL_RESTARTED)
def test_a_run_moves_to_one_process(
    restarts: Path,
    one_process: OneProcess,
    towns: Path,
    tmp_path: Path,
    engine: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(restarts / f"resumed_{engine}", tmp_path / "run")
    shutil.rmtree(newest(tmp_path / "run"))  # of the last step: the one of step 4 is left
    tiny.train(tiny.recipe(towns, tmp_path / "run", changes_for(("single", "fp32", "none"))))
    assert (
        worst_difference(tmp_path / "run", one_process(changes_for(("single", "fp32", "none"))))
        < FP32_TOLERANCE
    )
    lines = capfd.readouterr().err
    assert "resumed on 1 processes a run of 2: weights, optimizer and schedule are exact" in lines
    assert f"resumed under single a run of {engine}" in lines


@pytest.mark.exactness
@pytest.mark.parametrize("engine", ALL_RESTARTED)
def test_a_skipped_step_leaves_no_trace(restarts: Path, engine: str) -> None:
    """Skipped over the loss alone, with a finite gradient at hand; the second step then ends where ddp's does."""
    state, expected = (tiny.saved_state(newest(restarts / f"skipped_{name}")) for name in (engine, "ddp"))
    for key, value in expected.items():
        if key.startswith(("weight/", "exp_avg/")):
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.exactness
@pytest.mark.parametrize("engine", SHARDED)
def test_exported_weights_are_the_trained_ones(quick: Path, engine: str) -> None:
    """A single process loads what the engine left and predicts what the trained weights predict."""
    from scal3r_train.model.load_model import load_model

    run = folder_of(quick, (engine, "fp32", "none"))
    model = load_model(run / "model", torch.device("cpu"))
    state = tiny.saved_state(newest(run))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.flatten(), state[f"weight/{name}"])
    images = torch.rand(1, 2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    for name, value in load_file(run / "predictions.safetensors").items():
        torch.testing.assert_close(model(images)[name], value, rtol=1e-6, atol=1e-6)
    average = load_model(run / "model_ema", torch.device("cpu"))
    for name, parameter in average.named_parameters():
        kind = "ema" if f"ema/{name}" in state else "weight"
        assert torch.equal(parameter.flatten(), state[f"{kind}/{name}"])
