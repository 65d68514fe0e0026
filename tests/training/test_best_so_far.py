"""The best validation is known, its checkpoint is kept, and a run that gets no better ends, also after a kill."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scal3r_train.config import UserError
from scal3r_train.training.best_so_far import BestSoFar, EarlyStopping, EarlyStoppingSettings
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.test_resume import assert_equal_states, newest

OneProcess = Callable[..., Path]
NAN = math.nan


def best_of(values: Sequence[float], metric: Any = "val/loss", min_delta: float = 0.0) -> BestSoFar:
    best = BestSoFar(metric, min_delta)
    for place, value in enumerate(values):
        best.check(10 * (place + 1), {metric: value})
    return best


@pytest.mark.parametrize(
    ("values", "step", "num_since"),
    [
        ([3, 2, 1], 30, 0),
        ([1, 2, 3], 10, 2),
        ([2, 1, 1, 1], 20, 2),  # of equal values the first stays
        ([NAN, 2, NAN, math.inf, -math.inf], 20, 3),
        ([NAN, NAN], None, 2),
    ],
)
def test_lower_is_better(values: list[float], step: int | None, num_since: int) -> None:
    best = best_of(values)
    assert (best.step, best.num_since) == (step, num_since)


def test_a_higher_area_is_better() -> None:
    assert best_of([0.1, 0.3, 0.2], "val/auc_5").step == 20
    assert best_of([0.1, 0.3, 0.35], "val/auc_30", min_delta=0.1).step == 20


def test_better_means_by_more_than_the_delta() -> None:
    assert best_of([1.0, 0.95, 0.9, 0.85], min_delta=0.1).step == 40
    assert best_of([1.0, 0.95, 0.9], min_delta=0.1).step == 10


def test_the_start_and_a_missing_metric_take_no_part() -> None:
    best = BestSoFar("val/abs_rel")
    assert not best.check(0, {"val/abs_rel": 0.0})
    assert not best.check(1, {"val/loss": 0.0})
    assert best.check(2, {"val/abs_rel": 0.5})


def test_its_state_goes_through_json_and_not_to_another_metric() -> None:
    best = best_of([3.0, 2.0, 2.5])
    state = json.loads(json.dumps(best.state()))
    resumed, other = BestSoFar("val/loss"), BestSoFar("val/abs_rel")
    resumed.restore(state)
    other.restore(state)
    assert vars(resumed) == vars(best)
    assert vars(other) == vars(BestSoFar("val/abs_rel"))
    resumed.restore({})
    assert resumed.step == 20


def test_patience_is_counted_in_validations() -> None:
    stopping = EarlyStopping(EarlyStoppingSettings(patience=2, min_delta=0.5))
    for step, value in ((0, 0.0), (1, 3.0), (2, 2.8)):
        stopping.check(step, {"val/loss": value})
        assert stopping.reason == ""
    stopping.check(3, {"val/loss": NAN})
    assert stopping.reason == (
        "val/loss was not better than 3 (step 1) by more than 0.5 in 2 validations in a row"
    )
    assert stopping.state()["reason"] == stopping.reason
    more_patient = EarlyStopping(EarlyStoppingSettings(patience=3, min_delta=0.5))
    more_patient.restore(stopping.state())
    assert more_patient.reason == ""
    assert EarlyStopping(None).reason == "" and EarlyStopping(None).state() == {}


@pytest.mark.parametrize("changes", [{"checkpoint.best": "val/loss"}, {"validation.early_stopping": {}}])
def test_without_validation_they_are_refused(towns: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="needs validations to compare"):
        tiny.recipe(towns, tmp_path, changes | {"validation.every": 0})


NOT_OF_THE_AVERAGE = "These numbers are of the run's own weights, not of their moving average"
LOSSES = {0: 0.0, 1: 5.0, 2: 3.0, 3: 3.0, 4: 4.0, 5: 4.0}
KEPT: dict[str, Any] = {
    "validation.every": 1,
    "checkpoint": {"every": 2, "keep_last": 1, "best": "val/loss"},
    "optim.ema_decay": 0.5,
}


@contextmanager
def given_losses() -> Iterator[None]:
    """Let every validation have the loss of its step in `LOSSES`."""
    from scal3r_train.training import trainer

    original, line = trainer.validate, trainer.Trainer._validate

    def noted(self: Any, telemetry: Any, step: int) -> bool:
        with tiny.replaced("validate", lambda *given: original(*given) | {"val/loss": LOSSES[step]}):
            return line(self, telemetry, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "_validate", noted)
        yield


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_best_checkpoint_outlives_newer_ones(
    towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Steps 1 and 2 are the best of their time; 1 goes when 2 is there, 2 stays whatever comes."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    with given_losses():
        tiny.train(tiny.recipe(towns, whole, KEPT))
        shown = capfd.readouterr().err
        for num_steps in (3, 1):  # killed after step 3, and after one more
            with tiny.killed_after(num_steps):
                tiny.train(tiny.recipe(towns, resumed, KEPT))
        assert checkpoints(resumed) == ["step_00000002"]
        tiny.train(tiny.recipe(towns, resumed, KEPT))
    for run in (whole, resumed):
        assert checkpoints(run) == ["step_00000002", "step_00000005"]
        best, last = (run / "checkpoints" / name for name in checkpoints(run))
        cards = {
            name: (last / name / "README.md").read_text(encoding="utf-8") for name in ("model", "model_ema")
        }
        assert [NOT_OF_THE_AVERAGE in card for card in cards.values()] == [False, True]
        for kept, left in ((best / "model", "model_best"), (last / "model", "model")):
            weights = (kept / "model.safetensors").read_bytes()
            assert weights == (run / left / "model.safetensors").read_bytes()
    assert_equal_states(tiny.saved_state(newest(resumed)), tiny.saved_state(newest(whole)))
    best_state = json.loads((newest(whole) / "manifest.json").read_text())["progress"]["best"]
    assert best_state == {"metric": "val/loss", "value": 3.0, "step": 2, "num_since": 3}
    assert "(best val/loss so far)" in shown
    assert f"best        val/loss 3 after step 2, {whole}/checkpoints/step_00000002\n" in shown
    assert f"model.checkpoint={whole}/model_best\n" in shown


STOPPING: dict[str, Any] = {"validation.every": 1, "validation.early_stopping": {"patience": 2}}


def test_a_run_that_gets_no_better_is_complete(
    towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Step 2 is the best one, so that step 4 is the last; the run that goes on is the one that never stopped."""
    reason = "val/loss was not better than 3 (step 2) in 2 validations in a row"
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with given_losses():
        assert tiny.train(tiny.recipe(towns, stopped, STOPPING)) == ""
        shown = capfd.readouterr().err
        assert f"stopped early after step 4: {reason}\n" in shown
        assert "done        4 steps, in " in shown and f"early       {reason}\n" in shown
        manifest = json.loads((newest(stopped) / "manifest.json").read_text())
        assert manifest["progress"]["step"] == 4 and (stopped / "model").is_dir()
        assert manifest["progress"]["early_stopping"]["reason"] == reason
        assert tiny.train(tiny.recipe(towns, stopped, STOPPING)) == ""
        assert (
            f"this run is over since step 4: {reason}; validation.early_stopping=null goes on\n"
            in capfd.readouterr().err
        )
        assert checkpoints(stopped)[-1] == "step_00000004"
        more = {"validation.every": 1}
        tiny.train(tiny.recipe(towns, stopped, more))
        tiny.train(tiny.recipe(towns, whole, more))
    assert tiny.metrics(stopped) == tiny.metrics(whole)
    assert_equal_states(tiny.weights(stopped), tiny.weights(whole))


@pytest.mark.exactness
def test_ranks_stop_together(ranks: Ranks) -> None:
    """After step 2, since nothing is better by 1000; whichever of the two is better by anything is kept."""
    run = ranks.folder / "stopped_early"
    assert [note["stopped_early"] for note in ranks.notes] == ["", ""]
    assert [line["step"] for line in tiny.steps(run)] == [1, 2]
    first, second = (
        line["val/loss"] for line in tiny.metrics(run, "val/loss") if line["step"] > 0 and len(line) > 1
    )
    best = f"step_0000000{1 if first <= second else 2}"
    assert checkpoints(run) == sorted({best, "step_00000002"})


@pytest.mark.exactness
@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_ranks_measure_the_loss_of_one_process(ranks: Ranks, one_process: OneProcess, average: str) -> None:
    """Two ranks that share the four chunks of each validation window."""
    changes = {"losses.average": average, "losses.normalization": average, "optim.num_steps": 1}
    alone = one_process(changes | {"validation.curriculum.chunks_per_rank": {"4": 1.0}})
    together = ranks.folder / f"validated_{average}"
    (first, *_), (expected, *_) = tiny.metrics(together, "val/"), tiny.metrics(alone, "val/")
    assert first["step"] == 0 and first == pytest.approx(expected, rel=1e-4)
