"""Adapters and memories train alike under every engine, resume bit for bit, and move from one to another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.lora import is_adapter
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.conftest import LIMIT_S
from tests.forking import ForkServer
from tests.parallel.engine_runs import Run, folder_of
from tests.parallel.lora_worker import QUICK, SLOW, lora_changes
from tests.parallel.test_engines import BF16_TOLERANCE, FP32_TOLERANCE, worst_difference
from tests.training import tiny
from tests.training.test_resume import assert_equal_states, newest

pytest.importorskip("peft")
pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.timeout(1800), pytest.mark.exactness]
OneProcess = Callable[..., Path]
NETWORK = tiny.NETWORK | {"patch_encoder": "dinov2", "encoder_layers": 1, "encoder_heads": 2}
ALL = [*QUICK, *(pytest.param(run, marks=pytest.mark.slow) for run in SLOW)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "base"
    torch.manual_seed(0)
    Scal3RModel(Scal3RConfig(**NETWORK)).save_pretrained(folder)
    return folder


def trained(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, *arguments: object) -> Path:
    folder = tmp_path_factory.mktemp("lora_runs")
    program = ("tests/parallel/lora_worker.py", *arguments[:2], folder, arguments[2])
    done = forks.run_ranks(2, *program, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path, base: Path) -> Path:
    return trained(tmp_path_factory, forks, towns, base, "quick")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, towns: Path, base: Path) -> Path:
    return trained(tmp_path_factory, forks, towns, base, "slow")


@pytest.fixture
def folder(run: Run, request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue("quick" if run in QUICK else "slow")
    return found


@pytest.mark.parametrize("run", ALL, ids="-".join)
def test_every_engine_trains_the_same_adapters(
    folder: Path, run: Run, base: Path, one_process: OneProcess
) -> None:
    alone = one_process(lora_changes(base, ("single", *run[1:])))
    ours, tolerance = folder_of(folder, run), FP32_TOLERANCE if run[1] == "fp32" else BF16_TOLERANCE
    worst = worst_difference(ours, alone)
    print(f"{'-'.join(run):24} losses {worst:.1e}")
    assert worst < tolerance
    state, expected = tiny.saved_state(newest(ours)), tiny.saved_state(newest(alone))
    assert state.keys() == expected.keys()
    if run[1] == "bf16":
        return
    for kind in ("weight/", "exp_avg/", "ema/"):
        names = [key for key in expected if key.startswith(kind) and is_adapter(key)]
        one, other = (torch.cat([each[key].double() for key in names]) for each in (state, expected))
        assert float((one - other).norm()) < 1e-3 * float(other.norm()) > 0, kind


@pytest.mark.parametrize("run", ALL, ids="-".join)
def test_a_killed_run_resumes_bit_for_bit(folder: Path, run: Run) -> None:
    whole, resumed = folder_of(folder, run), folder_of(folder / "resumed", run)
    assert tiny.metrics(resumed) == tiny.metrics(whole)
    assert_equal_states(tiny.saved_state(newest(resumed)), tiny.saved_state(newest(whole)))
    assert_equal_states(tiny.weights(resumed), tiny.weights(whole))


@pytest.mark.parametrize("run", QUICK, ids="-".join)
def test_a_run_moves_to_one_process(
    folder: Path, run: Run, base: Path, towns: Path, one_process: OneProcess, tmp_path: Path
) -> None:
    shutil.copytree(folder_of(folder / "resumed", run), tmp_path / "run")
    shutil.rmtree(newest(tmp_path / "run"))  # of the last step: the one of step 4 is left
    changes = lora_changes(base, ("single", *run[1:]))
    tiny.train(tiny.recipe(towns, tmp_path / "run", changes))
    assert worst_difference(tmp_path / "run", one_process(changes)) < FP32_TOLERANCE
