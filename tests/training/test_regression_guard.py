"""The guard ends a run that stays worse than its start, also one that was killed in between, and no other."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from scal3r_train.config import UserError, validate_mapping
from scal3r_train.training.monitoring.chunk_errors import ERROR_NAMES
from scal3r_train.training.validation import GuardSettings, RegressionGuard, ValidationSettings
from tests.training import tiny
from tests.training.conftest import Ranks

NAN = math.nan


def first_stop(values: Sequence[float | None], **settings: Any) -> int | None:
    """Return the place of the validation that ends the run; None stands for a metric that is absent."""
    guard = RegressionGuard(GuardSettings(**settings))
    name = settings.get("metric", "val/rotation_deg")
    for place, value in enumerate(values):
        try:
            guard.check(100 * place, {} if value is None else {name: value})
        except UserError:
            return place
    return None


@pytest.mark.parametrize(
    ("values", "stop"),
    [
        ([10, 11.1, 11.2, 11.3], 3),
        ([10, 11.1, 10.9, 11.3, 11.4, 11.5], 5),  # the second one is within the ratio
        ([10, 10.9, 10.9, 10.9, 10.9], None),
        ([10, 1, 1, 12, 12, 5, 12, 12], None),
        ([10, NAN, None, math.inf], 3),
        ([10, NAN, 9, NAN, NAN, NAN], 5),
        ([0, 0, 0, 0, 0], None),
    ],
)
def test_worse_in_a_row_ends(values: list[float | None], stop: int | None) -> None:
    assert first_stop(values, ratio=1.1, patience=3) == stop


def test_a_higher_area_is_no_regression() -> None:
    assert first_stop([0.5, 0.9, 0.9], metric="val/auc_5", patience=1) is None
    assert first_stop([0.5, 0.46, 0.45], metric="val/auc_5", patience=1) == 2


def test_the_line_says_what_and_how_much() -> None:
    guard = RegressionGuard(GuardSettings(metric="val/abs_rel", patience=1, ratio=1.5))
    guard.check(0, {"val/abs_rel": 0.125})
    with pytest.raises(UserError) as caught:
        guard.check(700, {"val/abs_rel": 0.25})
    line = str(caught.value)
    assert "\n" not in line
    for part in (
        "step 700",
        "val/abs_rel is 0.25",
        "0.125 at step 0",
        "factor of 1.5",
        "validation.guard=null",
    ):
        assert part in line


@pytest.mark.parametrize("value", [NAN, None])
def test_a_start_without_the_metric_is_refused(value: float | None) -> None:
    assert first_stop([value]) == 0


def test_without_settings_nothing_is_watched() -> None:
    guard = RegressionGuard(None)
    for value in (1.0, 100.0, 100.0, 100.0):
        guard.check(0, {"val/rotation_deg": value})


def test_its_state_goes_through_json() -> None:
    guard = RegressionGuard(GuardSettings(patience=2))
    for value in (10.0, 20.0):
        guard.check(0, {"val/rotation_deg": value})
    resumed = RegressionGuard(GuardSettings(patience=2))
    resumed.restore(json.loads(json.dumps(guard.state())))
    with pytest.raises(UserError):
        resumed.check(0, {"val/rotation_deg": 20.0})
    started_later = RegressionGuard(GuardSettings(patience=1))
    started_later.restore({})
    started_later.check(0, {"val/rotation_deg": 20.0})


def test_every_number_of_the_validation_can_be_watched() -> None:
    names = get_args(GuardSettings.model_fields["metric"].annotation)
    assert names == ("val/loss", *(f"val/{name}" for name in ERROR_NAMES))


def test_a_guard_without_validation_is_refused() -> None:
    with pytest.raises(UserError, match="guard needs validations to compare"):
        validate_mapping(ValidationSettings, {"guard": {}}, "recipe")


GUARDED = {"validation.every": 1, "validation.guard": {"patience": 2}, "checkpoint.every": 1}


@contextmanager
def worse_each_time() -> Iterator[None]:
    """Let the model be exact before step 0 and worse by a degree in each later validation."""
    from scal3r_train.training import trainer

    calls: list[int] = []
    original = trainer.validate

    def validate(*arguments: Any) -> dict[str, float]:
        values = original(*arguments)
        calls.append(1)
        return values | {"val/rotation_deg": 10.0 * len(calls) if len(calls) > 1 else 1.0}

    with tiny.replaced("validate", validate):
        yield


def test_a_run_that_gets_worse_is_ended_also_after_a_kill(towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path, GUARDED)
    with worse_each_time(), tiny.killed_after(1):
        tiny.train(recipe)
    original_calls = [line for line in tiny.metrics(tmp_path) if "val/rotation_deg" in line]
    assert [line["step"] for line in original_calls] == [0, 1]
    with (
        tiny.replaced("validate", lambda *_: {"val/rotation_deg": 20.0}),
        pytest.raises(UserError, match="stopped at step 2: val/rotation_deg is 20 and was 1 at step 0"),
    ):
        tiny.train(recipe)
    assert tiny.metrics(tmp_path)[-1]["step"] == 2, "what ended the run is on record"
    assert not (tmp_path / "model").exists()


def test_both_ranks_end_with_the_same_line(ranks: Ranks) -> None:
    lines = {rank["regressed"] for rank in ranks.notes}
    assert len(lines) == 1
    assert lines.pop().startswith("stopped at step 2: val/rotation_deg is ")
