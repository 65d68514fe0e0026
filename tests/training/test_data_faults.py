"""A sequence that cannot be read is replaced by one that all ranks agree on; the run goes on, counts and tells it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.data import dataset
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.sampling.plan import WindowSlot, fallback_window, plan_step
from scal3r_train.training import data_faults
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.rank_worker import BROKEN
from tests.training.test_step_exactness import assert_same_run

BROKEN_TOWN = "town_001_00001"


@pytest.fixture(scope="module")
def partly(towns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_partly_broken_towns(towns, tmp_path_factory.mktemp("partly"))


@pytest.fixture(scope="module")
def whole_run(partly: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process that meets the broken town."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.train(tiny.recipe(partly, folder, BROKEN))
    return folder


def assert_same_weights(run: Path, other: Path, **tolerance: float) -> None:
    expected = tiny.weights(other)
    for name, value in tiny.weights(run).items():
        torch.testing.assert_close(value, expected[name], **{"rtol": 0.0, "atol": 0.0} | tolerance)


def test_every_fallback_is_counted_and_written(whole_run: Path) -> None:
    faults = tiny.faults(whole_run)
    assert len(faults) > 1
    assert {fault["sequence"] for fault in faults} == {BROKEN_TOWN}
    assert all("gone_" in fault["reason"] for fault in faults)
    assert all(fault["replaced_by"] != BROKEN_TOWN for fault in faults)
    for line in tiny.steps(whole_run):
        assert line["data/fallbacks"] == sum(fault["step"] <= line["step"] for fault in faults)


def test_a_sequence_is_reported_once(partly: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe(partly, tmp_path, BROKEN)
    tiny.train(recipe)
    lines = [line for line in capfd.readouterr().err.splitlines() if "cannot be" in line or "takes" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"step {tiny.faults(tmp_path)[0]['step']}: file ")
    assert f"takes the place of {BROKEN_TOWN}" in lines[0]


def test_it_is_as_if_the_plan_had_said_so(
    whole_run: Path, towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run on data that is whole, with the other windows in the plan from the start."""
    steps = {fault["step"] for fault in tiny.faults(whole_run)}

    def planned(curriculum: Any, sources: Any, seed: int, step: int, world_size: int) -> Any:
        plan = plan_step(curriculum, sources, seed, step, world_size)
        if step + 1 not in steps:
            return plan
        (group,) = plan.groups
        (lost,) = group.windows
        window = fallback_window(
            curriculum, sources, seed, WindowSlot(plan, group, 0), 1, [(lost.source, lost.row)]
        )
        return replace(plan, groups=(replace(group, windows=(window,)),))

    monkeypatch.setattr(dataset, "plan_step", planned)
    tiny.train(tiny.recipe(towns, tmp_path, BROKEN))
    assert not tiny.faults(tmp_path)
    assert_same_weights(tmp_path, whole_run)
    for line, other in zip(tiny.steps(tmp_path), tiny.steps(whole_run), strict=True):
        assert line["loss"] == other["loss"]


def test_resumed_is_uninterrupted(whole_run: Path, partly: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(partly, tmp_path, BROKEN)
    with tiny.killed_after(7):
        tiny.train(recipe)
    assert [fault["step"] for fault in tiny.faults(tmp_path)] == [2, 6, 7, 8], (
        "two of them after the checkpoint"
    )
    with (tmp_path / "data_faults.jsonl").open("a") as file:
        file.write('{"step": 8, "seq')  # a line cut short
    tiny.train(recipe)
    assert tiny.faults(tmp_path) == tiny.faults(whole_run)
    assert tiny.metrics(tmp_path) == tiny.metrics(whole_run)
    assert_same_weights(tmp_path, whole_run)


def test_reading_processes_change_nothing(whole_run: Path, partly: Path, tmp_path: Path) -> None:
    tiny.train(tiny.recipe(partly, tmp_path, BROKEN | {"data.num_workers": 1}))
    assert tiny.faults(tmp_path) == tiny.faults(whole_run)
    assert_same_weights(tmp_path, whole_run)


@pytest.mark.exactness
def test_two_ranks_of_a_group_take_the_same_window(ranks: Ranks, whole_run: Path) -> None:
    """Although only one of them may see that the planned one is broken."""
    run = ranks.folder / "partly_broken"
    written, expected = tiny.faults(run), tiny.faults(whole_run)
    assert [fault | {"rank": 0, "reason": ""} for fault in written] == [
        fault | {"rank": 0, "reason": ""} for fault in expected
    ]
    assert {fault["rank"] for fault in written} == {0, 1}
    assert_same_run(run, whole_run)


def test_a_rank_alone_in_its_group_is_replaced_alone(ranks: Ranks) -> None:
    run = ranks.folder / "partly_broken_alone"
    faults = tiny.faults(run)
    assert faults and {fault["sequence"] for fault in faults} == {BROKEN_TOWN}
    assert tiny.steps(run)[-1]["data/fallbacks"] == len(faults)
    assert all(line["loss"] is not None for line in tiny.steps(run))


def test_numbers_that_are_not_finite_are_replaced_too(towns: Path, tmp_path: Path) -> None:
    index = load_index(towns)
    records = [index[row] for row in range(len(index))]
    poor = np.array(records[1].intrinsics)
    poor[10:] = np.nan
    records[1] = replace(records[1], intrinsics=poor)
    write_index(tmp_path / "index.parquet", records)
    tiny.train(tiny.recipe(tmp_path / "index.parquet", tmp_path / "run", BROKEN))
    reasons = {fault["reason"] for fault in tiny.faults(tmp_path / "run")}
    assert reasons
    assert all(f"sequence {BROKEN_TOWN}: focal lengths must be above 0" in reason for reason in reasons)


def test_no_fallbacks_on_request(partly: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^step \d+: file .*gone_\d+\.png does not exist; check"):
        tiny.train(tiny.recipe(partly, tmp_path, BROKEN | {"data.max_fallbacks_per_step": 0}))


def test_nothing_left_to_read_ends_the_run(towns: Path, tmp_path: Path) -> None:
    record = load_index(towns)[0]
    images = tuple(str(tmp_path / f"gone_{place}.png") for place in range(record.num_frames))
    write_index(tmp_path / "index.parquet", [replace(record, image=images)])
    recipe = tiny.recipe(
        tmp_path / "index.parquet", tmp_path / "run", BROKEN | {"data.max_fallbacks_per_step": 3}
    )
    with pytest.raises(UserError, match=r"^step 1: file .*gone_.*\(3 other windows neither\)$"):
        tiny.train(recipe)
    assert [fault["attempt"] for fault in tiny.faults(tmp_path / "run")] == [1, 2, 3]


def test_too_many_faulty_steps_end_the_run(
    partly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_faults, "MIN_STEPS", 4)
    with pytest.raises(UserError, match=r"^1 of \d steps met data .*max_fallback_share = 0.1; .*last: file"):
        tiny.train(tiny.recipe(partly, tmp_path, BROKEN | {"data.max_fallback_share": 0.1}))
    assert len(tiny.faults(tmp_path)) == 1


def test_whole_data_costs_one_exchange_a_step(
    towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[Any], list[Any]] = data_faults.gather_to_all
    sent: list[Any] = []

    def gather(value: Any) -> list[Any]:
        sent.append(value)
        return original(value)

    monkeypatch.setattr(data_faults, "gather_to_all", gather)
    changes = {"optim.accumulation_steps": 2, "optim.num_steps": 3, "validation.every": 0}
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    assert sent == [([], [])] * 3
    assert not (tmp_path / "data_faults.jsonl").exists()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["data/fallbacks"] == 0
