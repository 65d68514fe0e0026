"""What ends one process ends the other, with the same cause; nobody waits for good and nothing is left behind."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.distributed as dist

from scal3r_train.config import UserError
from scal3r_train.parallel.failure_propagation import describe, exit_code, is_lost_connection
from tests.forking import ForkServer

LIMIT_S = 200
SCENARIOS = ("fine", "early_mistake", "bug", "bug_while_other_sleeps", "killed")


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("scal3r: error:")]


@pytest.fixture(scope="module")
def ends(forks: ForkServer) -> Iterator[dict[str, list[End]]]:
    """All scenarios, side by side."""
    started = {
        scenario: forks.start_ranks(2, "tests/parallel/failing_worker.py", scenario) for scenario in SCENARIOS
    }
    try:
        found = {}
        for scenario, processes in started.items():
            done = [process.wait(LIMIT_S) for process in processes]
            found[scenario] = [End(each.returncode, each.stdout, each.stderr) for each in done]
        yield found
    finally:
        for processes in started.values():
            for process in processes:
                process.kill()


def test_a_run_that_ends_well_says_nothing(ends: dict[str, list[End]]) -> None:
    for end in ends["fine"]:
        assert end.code == 0, end.err
        assert not end.lines


def test_a_mistake_of_one_is_reported_by_both(ends: dict[str, list[End]]) -> None:
    """Made before the other, which waits for it, could join it."""
    for end in ends["early_mistake"]:
        assert end.code == 2, end.err
        assert end.lines == ["scal3r: error: rank 1: the mistake of one"]
        assert "Traceback" not in end.err


@pytest.mark.parametrize("scenario", ["bug", "bug_while_other_sleeps"])
def test_a_bug_of_one_ends_both_and_keeps_its_traceback(ends: dict[str, list[End]], scenario: str) -> None:
    """Whether the other waits for it in a collective or is busy elsewhere."""
    waiting, failing = ends[scenario]
    for end in (waiting, failing):
        assert end.code == 1, end.err
        assert end.lines == ["scal3r: error: rank 1: ZeroDivisionError: the bug of one"]
    assert "in fail\n    raise ZeroDivisionError" in failing.err
    assert "Traceback" not in waiting.err


def test_children_go_with_their_process(ends: dict[str, list[End]]) -> None:
    for scenario in ("bug", "bug_while_other_sleeps"):
        found = re.search(r"child (\d+)", ends[scenario][1].out)
        assert found is not None
        state = Path(f"/proc/{found.group(1)}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_killed_process_is_named(ends: dict[str, list[End]]) -> None:
    surviving, killed = ends["killed"]
    assert killed.code == -9
    assert surviving.code == 1
    (line,) = surviving.lines
    assert re.match(r"scal3r: error: rank 1: process \d+ on \S+ is gone without a word", line)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"


def test_what_is_only_an_echo() -> None:
    assert is_lost_connection(RuntimeError(GLOO))
    assert is_lost_connection(dist.DistBackendError("NCCL error"))
    assert not is_lost_connection(RuntimeError("shapes differ"))
    assert not is_lost_connection(None)
    misread = UserError("the checkpoint is damaged")
    misread.__cause__ = RuntimeError(GLOO)
    assert is_lost_connection(misread)


def test_one_line_of_ascii() -> None:
    assert describe(UserError("mend it")) == "mend it"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(KeyboardInterrupt()) == "interrupted"
    assert describe(RuntimeError("two\nlines \U0001f3d6")) == "RuntimeError: two lines ?"
    assert describe(RuntimeError(GLOO)).startswith("waited in vain for a process, stuck or slow")
    text = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback ...\nKeyError: 'a'\n"
    assert describe(KeyError(text)) != describe(RuntimeError(text))
    assert describe(RuntimeError(text)) == "KeyError: 'a'"


@pytest.mark.parametrize(("error", "code"), [(UserError(""), 2), (OSError(), 1), (KeyboardInterrupt(), 130)])
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code
