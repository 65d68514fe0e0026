"""How the processes of a run find each other: by the store of the first one, at MASTER_ADDR:MASTER_PORT.

Whatever keeps them apart (an address that leads nowhere, a port that another program has, a process that was never
started) ends each of them within a time limit, with a line that says what to look at.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from tempfile import TemporaryFile

import torch.distributed as dist

from scal3r_train.config import EXIT_USER_ERROR, UserError
from scal3r_train.notes import tell

RETRY_S = 0.5
ANSWER_S = 5.0  # beyond the limit, for torch to give up by itself
TAKEN, ANSWERED_WRONGLY = "EADDRINUSE", "Ping failed"  # in what torch says
ASK_FOR_LOGS = ("TORCH_CPP_LOG_LEVEL", "TORCH_DISTRIBUTED_DEBUG", "NCCL_DEBUG")
STDERR = 2


@contextmanager
def meeting_peers(limit: timedelta) -> Iterator[None]:
    """Let the body, in which torch meets the peers, end in one line within `limit` and a few seconds.

    torch waits without end for the answer of a program that is no store of a run; this process then exits from here.

    Raises:
        UserError: the peers cannot be met.
    """
    place = _place()
    if not _keeps_store():
        _wait_for_store(place, limit)
    watch = threading.Timer(limit.total_seconds() + ANSWER_S, _exit_by_force, [_other_program(place)])
    watch.daemon = True
    watch.start()
    try:
        yield
    except dist.DistError as error:
        raise UserError(_reason(place, limit, error)) from error
    finally:
        watch.cancel()


def _place() -> tuple[str, int]:
    """Return address and port of the store.

    Raises:
        UserError: the launcher, or who replaces it, did not name them.
    """
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(
                f"the environment names RANK and WORLD_SIZE but not {name}: start with torchrun or accelerate launch, "
                "or set it to the first machine's address and a free port of it"
            )
    port = os.environ["MASTER_PORT"]
    if not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"MASTER_PORT is {port}: set it to the number of a free port")
    return os.environ["MASTER_ADDR"], int(port)


def _keeps_store() -> bool:
    return os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _wait_for_store(place: tuple[str, int], limit: timedelta) -> None:
    """Return when something listens at a place: torch would print a page of its own for every attempt."""
    deadline = time.monotonic() + limit.total_seconds()
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection(place, timeout=max(left, RETRY_S)).close()
            return
        except OSError as error:
            if time.monotonic() + RETRY_S >= deadline:
                reason = error.strerror or str(error)
                raise UserError(
                    f"the first process cannot be reached at {_text(place)} ({reason}, tried for "
                    f"{_seconds(limit)}): see that rank 0 was started, that MASTER_ADDR (--master-addr) is its "
                    "machine, and that no firewall closes the port"
                ) from error
        time.sleep(RETRY_S)


def _reason(place: tuple[str, int], limit: timedelta, error: dist.DistError) -> str:
    text = str(error).splitlines()[0]
    if ANSWERED_WRONGLY in text:
        return _other_program(place)
    if TAKEN in text:
        return (
            f"port {place[1]} of this machine is taken by another program: choose another one (MASTER_PORT, "
            "--master-port)"
        )
    return (
        f"the processes of this run did not all come to {_text(place)} within {_seconds(limit)}: see that each of "
        f"the {os.environ['WORLD_SIZE']} was started with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE ({text})"
    )


def _other_program(place: tuple[str, int]) -> str:
    return (
        f"what listens at {_text(place)} does not answer as the first process of a run would: another program has "
        "that port, choose another one (MASTER_PORT, --master-port), or MASTER_ADDR is another machine's"
    )


@contextmanager
def frames_hidden() -> Iterator[None]:
    """Keep from stderr what C++ libraries print in the body, unless the environment asks for their logs.

    When torch meets no peer it prints a page of C++ frames for every attempt; the line of `meeting_peers` says more.
    What was printed before the body ended well, such as a warning, is passed on then.
    """
    global _stderr
    if any(name in os.environ for name in ASK_FOR_LOGS):
        yield
        return
    sys.stderr.flush()
    with TemporaryFile() as hidden:
        _stderr = os.dup(STDERR)
        os.dup2(hidden.fileno(), STDERR)
        try:
            yield
        except BaseException:
            _show_stderr()
            raise
        _show_stderr()
        hidden.seek(0)
        os.write(STDERR, hidden.read())


_stderr: int | None = None  # where standard error goes while it is hidden


def _show_stderr() -> None:
    global _stderr
    if _stderr is not None:
        os.dup2(_stderr, STDERR)
        os.close(_stderr)
        _stderr = None


def _exit_by_force(line: str) -> None:
    _show_stderr()
    tell(f"scal3r: error: {line}")
    sys.stderr.flush()
    os._exit(EXIT_USER_ERROR)


def _text(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def _seconds(limit: timedelta) -> str:
    return f"{limit.total_seconds():.0f} s"
