"""A run that is told to stop saves, says so, and goes on as if it had not been stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scal3r_train.train import main
from scal3r_train.training.stop import EXIT_STOPPED, StopRequest
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.signalled import signalled_in
from tests.training.test_resume import assert_same_end

OneProcess = Callable[..., Path]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_after_the_step(
    one_process: OneProcess, towns: Path, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signalled_in(3, number):
        assert tiny.train(tiny.recipe(towns, tmp_path)) == number.name
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())[-1] == "step_00000003"
    assert not (tmp_path / "model").exists()
    assert tiny.train(tiny.recipe(towns, tmp_path)) == ""
    assert_same_end(tmp_path, one_process())


def test_the_command_has_a_code_of_its_own(towns: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"  # JSON is YAML
    recipe.write_text(tiny.recipe(towns, tmp_path / "run").model_dump_json())
    with signalled_in(1, signal.SIGTERM):
        assert main([str(recipe)]) == EXIT_STOPPED == 85
    assert main([str(recipe)]) == 0


def test_hours_run_out(towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path, {"checkpoint.max_hours": 1e-9})
    for step in range(1, tiny.NUM_STEPS):  # a step is made before each stop
        assert "max_hours" in tiny.train(recipe)
        assert len(tiny.steps(tmp_path)) == step
    assert tiny.train(recipe) == ""


def test_the_last_step_is_not_a_stop(towns: Path, tmp_path: Path) -> None:
    with signalled_in(tiny.NUM_STEPS, signal.SIGTERM):
        assert tiny.train(tiny.recipe(towns, tmp_path)) == ""
    assert (tmp_path / "model").exists()


def test_a_second_ctrl_c_does_not_wait() -> None:
    request = StopRequest(None)
    request.note(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        request.note(signal.SIGINT)


@pytest.mark.exactness
def test_one_rank_is_signalled_and_both_stop(ranks: Ranks) -> None:
    assert [notes["stopped"] for notes in ranks.notes] == ["SIGTERM", "SIGTERM"]
    assert_same_end(ranks.folder / "stopped", ranks.folder / "shared")
