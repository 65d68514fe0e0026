"""Processes that cannot find each other end in time, with a line that says what to look at."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
import torch.distributed as dist

from scal3r_train.config import UserError
from scal3r_train.parallel import meeting
from scal3r_train.parallel.meeting import frames_hidden, meeting_peers

LIMIT = timedelta(seconds=1)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port at which rank 1 of two will look for rank 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = int(listener.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(number), "RANK": "1", "WORLD_SIZE": "2"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return number


@pytest.fixture
def taken(port: int) -> Iterator[int]:
    """The same port, at which a program listens that never answers."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", port))
        listener.listen()
        yield port


def meet() -> None:
    with meeting_peers(LIMIT):
        next(dist.rendezvous("env://", timeout=LIMIT))


def test_nobody_listens(port: int) -> None:
    with pytest.raises(
        UserError, match=rf"127.0.0.1:{port} \(Connection refused, tried for 1 s\): see that rank 0"
    ):
        meet()


def test_an_address_that_leads_nowhere(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    with pytest.raises(UserError, match="cannot be reached at no-such-host.invalid.*MASTER_ADDR"):
        meet()


def test_a_rank_never_comes(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"did not all come to .* within 1 s: .*1/2 clients joined"):
        meet()


def test_the_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=f"port {taken} of this machine is taken .*: choose another one"):
        meet()


def test_another_program_has_the_port_and_does_not_answer(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch itself would wait for good: the process exits."""
    lines: list[str] = []
    has_exited = threading.Event()

    def exit_by_force(line: str) -> None:
        lines.append(line)
        has_exited.set()

    monkeypatch.setattr(meeting, "ANSWER_S", 0.0)
    monkeypatch.setattr(meeting, "_exit_by_force", exit_by_force)

    def wait_for_good() -> None:
        with suppress(Exception):  # after the test, once the program is gone
            meet()

    threading.Thread(target=wait_for_good, daemon=True).start()
    assert has_exited.wait(60)
    assert "does not answer as the first process of a run would" in lines[0]


@pytest.fixture
def babbling(port: int) -> Iterator[int]:
    """The same port, at which a program answers that is another one, as a web server would."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen()

        def babble() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=babble, daemon=True).start()
        yield port


def test_another_program_answers(babbling: int, capfd: pytest.CaptureFixture[str]) -> None:
    """In one line, not with the pages of C++ frames that torch prints for each attempt."""
    with pytest.raises(UserError, match="does not answer as the first process"), frames_hidden():
        meet()
    assert f"{babbling}" not in capfd.readouterr().err


def test_what_is_printed_when_peers_are_met_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with frames_hidden():
        os.write(2, b"a warning of C++\n")
    assert capfd.readouterr().err == "a warning of C++\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTER_ADDR", ""),
        ("MASTER_PORT", ""),
        ("MASTER_PORT", "x"),
        ("MASTER_PORT", "\u00b2"),
        ("MASTER_PORT", "70000"),
    ],
)
def test_no_place_to_meet(port: int, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    if value:
        monkeypatch.setenv(name, value)
    else:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=name):
        meet()
