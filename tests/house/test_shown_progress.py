"""What is shown of a piece of work: durations, the pace, lines without control characters, the bar on a terminal."""

import io
import re

import pytest
from rich.console import Console

from scal3r_train import shown_progress
from scal3r_train.shown_progress import MOST_MARKS, SECONDS_BETWEEN_LINES, Pace, ShownWork, spoken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that is read; tests move it."""
    now = [100.0]
    monkeypatch.setattr(shown_progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360000, "4 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_a_slow_start_is_forgotten(clock: list[float]) -> None:
    pace = Pace(1000, 10)
    assert pace.seconds_left is None and pace.left == ""
    clock[0] += 600  # compiling
    pace.reach(11)
    assert pace.seconds_left == pytest.approx(989 * 600)
    for step in range(12, 30):
        clock[0] += 2
        pace.reach(step)
        assert pace.seconds_left == pytest.approx(2 * (1000 - step))
    assert pace.left == ", 32 min 22 s left"
    pace.reach(1000)
    assert pace.left == ""


def test_pauses_now_and_then_count(clock: list[float]) -> None:
    """Every tenth of 100,000 steps takes 11 s and the others one: two on average."""
    pace = Pace(100_000)
    for step in range(1, 50_001):
        clock[0] += 11 if step % 10 == 0 else 1
        pace.reach(step)
    assert pace.seconds_left == pytest.approx(2 * 50_000, rel=0.01)
    assert len(pace._marks) <= MOST_MARKS


def test_without_a_total_nothing_is_foretold(clock: list[float]) -> None:
    pace = Pace(None)
    clock[0] += 5
    pace.reach(3)
    assert pace.seconds_left is None


def test_lines_away_from_a_terminal(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with ShownWork("reading [bold] things") as work:
        for count in (10, 20):
            clock[0] += SECONDS_BETWEEN_LINES
            work.reach(count, note="not for lines")
        work.say("a [16] list, 100 wide " + 80 * "x")
    with ShownWork("quick") as work:
        work.reach(1)
    error = capfd.readouterr().err
    assert error.splitlines() == [
        "reading [bold] things: 10, 20 s",
        "reading [bold] things: 20, 40 s",
        "a [16] list, 100 wide " + 80 * "x",
        "reading [bold] things: done in 40 s",
    ]
    assert not re.search(r"[^\x20-\x7e\n]", error)


def test_what_fails_is_not_done(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with ShownWork("work"):
            clock[0] += 100
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capfd.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_only_what_is_said(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        shown_progress, "new_console", lambda **_: Console(file=screen, force_terminal=True, width=120)
    )
    with ShownWork("train town", total=4) as work:
        clock[0] += 10 * SECONDS_BETWEEN_LINES
        work.reach(3, note="loss 0.5")
        work.say("checkpoint written")
    shown = screen.getvalue()
    assert "train town" in shown and "3/4" in shown and "loss 0.5" in shown and "checkpoint written" in shown
    assert "75 %" not in shown and "done in" not in shown
