"""Traces of chosen steps: which steps, what the files hold, and that the training does not notice."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.training.monitoring.step_trace import StepTrace, TraceSettings
from tests.training import tiny
from tests.training.test_resume import assert_equal_states

OneProcess = Callable[..., Path]
CPU = torch.device("cpu")


def events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def steps_in(path: Path) -> list[str]:
    return [event["name"] for event in events(path) if str(event.get("name", "")).startswith("step ")]


def trace(folder: Path, made: range, **settings: Any) -> list[Path]:
    tracer = StepTrace(TraceSettings(**settings), folder, 3, CPU)
    for step in made:
        with tracer.step(step):
            torch.ones(2, 3) @ torch.ones(3, 2)
    tracer.close()
    return sorted((folder / "profile").iterdir()) if (folder / "profile").exists() else []


def test_the_chosen_steps_and_no_others(tmp_path: Path) -> None:
    (path,) = trace(tmp_path, range(1, 8), first=3, steps=2)
    assert path.name == "steps_00000003-00000004_rank_00003.json.gz"
    assert steps_in(path) == ["step 3", "step 4"]
    assert any(event.get("name") == "aten::mm" for event in events(path))


def test_a_run_that_ends_or_begins_within_them(tmp_path: Path) -> None:
    (early,) = trace(tmp_path / "early", range(1, 4), first=3, steps=5)
    assert early.name == "steps_00000003-00000003_rank_00003.json.gz"
    (late,) = trace(tmp_path / "late", range(4, 9), first=3, steps=3)
    assert late.name == "steps_00000004-00000005_rank_00003.json.gz"
    assert trace(tmp_path / "after", range(6, 9), first=3, steps=3) == []


def test_shapes_and_memory_on_request(tmp_path: Path) -> None:
    def noted(**settings: Any) -> tuple[bool, bool]:
        (path,) = trace(tmp_path / str(settings), range(1, 2), first=1, steps=1, **settings)
        found = events(path)
        return (
            any("Input Dims" in event.get("args", {}) for event in found),
            any(event.get("name") == "[memory]" for event in found),
        )

    assert noted() == (False, False)
    assert noted(shapes=True, memory=True) == (True, True)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    with pytest.raises(UserError, match=r"telemetry\.profile: .*steps_00000001.* cannot be written"):
        trace(tmp_path, range(1, 2), first=1, steps=1)


def test_the_training_does_not_notice(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    tiny.train(tiny.recipe(towns, tmp_path, {"telemetry.profile": {"first": 2, "steps": 1}}))
    (path,) = (tmp_path / "profile").iterdir()
    assert steps_in(path) == ["step 2"]
    assert tiny.metrics(tmp_path) == tiny.metrics(one_process())
    assert_equal_states(tiny.weights(tmp_path), tiny.weights(one_process()))
