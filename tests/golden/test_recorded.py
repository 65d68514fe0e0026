"""Recorded runs come out as they did: bit for bit on the machine of the recording, to a tolerance elsewhere.

`pytest -m recorded` makes all of them; those that are not slow are part of `make test`. A failure names the run, the
step and both values. What is meant to change is recorded anew (tests/golden/record.py).
"""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LIMIT_S
from tests.forking import ForkServer
from tests.golden import record, recorded_runs
from tests.golden.recorded_runs import Run, all_runs, make_workspace
from tests.golden.recording import FOLDER, Outcome, Recording, this_machine

HERE = {"processor": "one", "torch": "2"}
OUTCOME = Outcome(
    ["python -m something"],
    {"weights of model": "ab" * 32},
    {"loss": [3.0, 2.0, 1.5], "trajectory": [[0.0, 1e-9, 4.0], [0.1, 1e-3, 8.0]], "point_count": 7},
)
RECORDING = Recording("train_it", "c0ffee" * 6 + "beef", HERE, OUTCOME)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Iterator[Path]:
    """The folder in which all runs are made, with the towns they share; commands of one process are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorded_runs, "run_python", forks.instead_of_subprocess)
        yield make_workspace(tmp_path_factory.mktemp("recorded"))


def marked(run: Run) -> Any:
    return pytest.param(run, id=run.name, marks=[pytest.mark.slow] if run.slow else [])


@pytest.mark.recorded
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("run", [marked(run) for run in all_runs().values()])
def test_run_is_as_recorded(run: Run, workspace: Path) -> None:
    if run.needs is not None:
        pytest.importorskip(run.needs)
    lines = Recording.load(run.name).differences(run.make(workspace=workspace), this_machine())
    assert not lines, "\n" + "\n".join(lines)


def test_every_run_is_recorded_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(all_runs())


def outcome_with(name: str, value: Any) -> Outcome:
    return replace(OUTCOME, numbers=OUTCOME.numbers | {name: value})


def test_the_last_bit_counts_on_the_same_machine_only() -> None:
    near = outcome_with("loss", [3.0, 2.0000000000000004, 1.5])
    first, line, last = RECORDING.differences(near, HERE)
    assert "train_it" in first
    assert "bit for bit" in first
    assert line.startswith("  loss, step 2: recorded 2.0, now 2.0000000000000004, difference 4.44e-16")
    assert "1 of 3" in line
    assert "python -m tests.golden.record train_it" in last
    assert "in its own commit and say why" in last
    assert not RECORDING.differences(near, HERE | {"processor": "another"})
    assert not RECORDING.differences(OUTCOME, HERE)


def test_other_weights_count_on_the_same_machine_only() -> None:
    other = replace(OUTCOME, sha256={"weights of model": "cd" * 32})
    assert "sha256 of weights of model: recorded abab" in RECORDING.differences(other, HERE)[1]
    assert not RECORDING.differences(other, HERE | {"torch": "3"})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("loss", [3.0, 2.0, 1.50001], "loss, step 3"),
        ("loss", [3.0, 2.0], "shape (3,), now (2,)"),
        ("loss", [3.0, float("nan"), 1.5], "loss, step 2"),
        ("trajectory", [[0.0, 1e-9, 4.0], [0.1, 1.0001e-3, 8.0]], "trajectory, row 2, column 2"),
        ("point_count", 8, "point_count, step 1: recorded 7.0, now 8.0"),
        ("more", 1, "more: only now"),
    ],
)
def test_another_machine_tells_what_is_too_far(name: str, value: Any, told: str) -> None:
    lines = RECORDING.differences(outcome_with(name, value), HERE | {"processor": "another"})
    assert "since processor differ" in lines[0]
    assert told in lines[1]


def test_small_entries_count_by_the_size_of_their_column() -> None:
    rows = [[0.0, 1.5e-9, 4.000001], [0.1, 1e-3, 8.0]]
    assert not RECORDING.differences(outcome_with("trajectory", rows), HERE | {"processor": "another"})


def test_a_dirty_tree_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "change").touch()
    assert record.main([], tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "commit or stash" in line


def test_a_run_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main(["nothing"]) == 2
    assert "no run is called nothing" in capsys.readouterr().err


def test_a_recording_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.golden.recording.FOLDER", tmp_path)
    RECORDING.save()
    assert Recording.load("train_it") == RECORDING
