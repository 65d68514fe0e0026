"""Times of stages: added up over stages entered twice, over failures and over starts, and kept in a file."""

import itertools
import json
from pathlib import Path

import pytest

from scal3r_train.inference import progress
from scal3r_train.inference.progress import Stages
from scal3r_train.shown_progress import SECONDS_BETWEEN_LINES


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `Stages` reads; tests move it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_times_add_up_over_stages_and_starts(clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    first = Stages(visible=False)
    first.keep(path)
    for seconds in (2.0, 3.0):
        with first.stage("align"):
            clock[0] += seconds
        clock[0] += 50.0  # between stages nothing counts

    def fail() -> None:
        with first.stage("place"):
            clock[0] += 7.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert first.timings_s == json.loads(path.read_text()) == {"align": 5.0, "place": 7.0}
    again = Stages(visible=False)
    again.keep(path)
    with again.stage("place"):
        clock[0] += 1.0
    assert again.timings_s == json.loads(path.read_text()) == {"align": 5.0, "place": 8.0}


def test_a_killed_stage_is_short_by_its_last_item(clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    stages = Stages(visible=False)
    stages.keep(path)
    with stages.stage("predict"):
        for item in stages.track(itertools.count()):
            if item == 3:
                assert json.loads(path.read_text()) == {"predict": 30.0}, "what a kill here would leave"
                break
            clock[0] += 10.0
        clock[0] += 4.0
    assert json.loads(path.read_text()) == {"predict": 34.0}, "nothing counts twice"


def test_what_cannot_be_read_is_no_time(tmp_path: Path) -> None:
    for content in ("", "[1]", '{"predict": "x"}', '{"predict": null}'):
        path = tmp_path / "timings.json"
        path.write_text(content)
        stages = Stages(visible=False)
        stages.keep(path)
        assert stages.timings_s == {}


def test_away_from_a_terminal_stages_say_how_far_they_are(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    """Two loops over four chunks, half a line's time each."""
    stages = Stages(visible=True)
    with stages.stage("predict"):
        stages.expect_loops(2)
        for _ in range(2):
            for _ in stages.track(range(4)):
                clock[0] += SECONDS_BETWEEN_LINES / 2
    with stages.stage("align"):
        pass
    assert capfd.readouterr().err.splitlines() == [
        "predict: 25 % (2 of 8), 20 s, 1 min 00 s left",
        "predict: 50 % (4 of 8), 40 s, 40 s left",
        "predict: 75 % (6 of 8), 1 min 00 s, 20 s left",
        "predict: 100 % (8 of 8), 1 min 20 s",
        "predict: done in 1 min 20 s",
    ]


def test_other_processes_say_nothing(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    stages = Stages(visible=False)
    with stages.stage("predict"):
        for _ in stages.track(range(4)):
            clock[0] += 2 * SECONDS_BETWEEN_LINES
    assert capfd.readouterr().err == ""
