"""Failure propagation: what ends one process of a run ends all of them soon, with the cause on every stderr."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from scal3r_train.config import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from scal3r_train.notes import tell
from scal3r_train.os_errors import told
from scal3r_train.parallel.folder_lock import release_all
from scal3r_train.parallel.heartbeat import Cause, Heartbeat
from scal3r_train.parallel.meeting import frames_hidden, meeting_peers

EXIT_FAILURE = 1
RAISED_BY_READER = "in DataLoader worker process"
MAX_MESSAGE = 500  # characters of another library's message
START_LIMIT = timedelta(
    minutes=10
)  # for the store to appear and, where there is no launcher, for all to come
ANSWER_TIMEOUT = timedelta(minutes=2)  # for the store to answer


@contextmanager
def failing_together(start_limit: timedelta = START_LIMIT) -> Iterator[None]:
    """Let an exception in the body, or the loss of a process, end the body's process on all ranks.

    The process that fails leaves its reason in the launcher's store and exits. The others learn it from the failing
    collective, or within a second from the heartbeat; those that still wait for something GRACE_S later exit by force.
    Every one prints the cause as one line, a traceback too if the cause is its own and no UserError, kills its
    reading processes and exits with the cause's code: 2 for a UserError, 130 for Ctrl-C, else 1. Nothing is unwound
    after that: to close a process group in order needs peers that are there.

    Started alone (no launcher, or one process) the body runs as it is. To be entered on the main thread, before
    anything that could fail, and not inside of a context that closes the process group on its way out.

    Raises:
        UserError: the peers are not there within `start_limit`; nobody can be told, each finds out by itself.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    with meeting_peers(start_limit), frames_hidden():
        store, rank, world_size = next(dist.rendezvous("env://", timeout=start_limit))
    keeps_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store.set_timeout(ANSWER_TIMEOUT)
    heartbeat = Heartbeat(store, rank, world_size, exit_by_force=_exit_by_force, keeps_store=keeps_store)
    heartbeat.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        _end(heartbeat, error)
    finally:
        heartbeat.close()


def _end(heartbeat: Heartbeat, error: BaseException) -> NoReturn:
    """Settle the cause with the peers, print it and exit."""
    if not isinstance(error, UserError) and (line := told(error)) is not None:
        error = UserError(line)
    code = exit_code(error)
    try:
        # The launcher answers the death of one process by SIGTERM to the others, and a dying reading process raises
        # in the middle of anything. Neither may cut the cause short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        own, is_consequence = Cause(heartbeat.rank, describe(error), code), is_lost_connection(error)
        if not is_consequence and not isinstance(error, UserError | KeyboardInterrupt):
            traceback.print_exception(error)
        cause = (heartbeat.find_cause() if is_consequence else None) or heartbeat.report(own)
        code = cause.code
        if not is_consequence and own.message != cause.message:
            _tell(own)
        _tell(cause)
    finally:
        _exit(code)


def _exit_by_force(cause: Cause) -> None:
    """End a process that did not end by itself; called by the thread of the heartbeat."""
    _tell(cause)
    _exit(cause.code)


def _tell(cause: Cause) -> None:
    tell(f"scal3r: error: rank {cause.rank}: {cause.message}")


def _exit(code: int) -> NoReturn:
    """Exit without unwinding: destructors of process groups abort or wait when peers are gone."""
    try:
        release_all()
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def describe(error: BaseException) -> str:
    """Return an error as one line of ASCII: a UserError's own line, else type and message."""
    text = str(error)
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif is_lost_connection(error):
        text = f"waited in vain for a process, stuck or slow (parallel.timeout_minutes): {text[:MAX_MESSAGE]}"
    elif RAISED_BY_READER in text:  # the message is the whole traceback, whose last line is ours
        text = text.strip().splitlines()[-1]
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text[:MAX_MESSAGE]}"
    return " ".join(text.split()).encode("ascii", "replace").decode()


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILURE


def is_lost_connection(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, says no more than that a peer is missing."""
    while error is not None:
        # gloo raises plain RuntimeErrors that begin with the place in its own source
        is_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
        if is_gloo or isinstance(error, dist.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False
