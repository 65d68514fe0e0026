"""The processes that read training data ahead: how they start, how they end, and the message when one dies."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue

import cv2

from scal3r_train.config import UserError
from scal3r_train.notes import tell
from scal3r_train.parallel.process import launched_rank

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MALLOC_LIMIT = 32 << 20  # bytes; the most that glibc takes
MALLOC_KEPT = 256 << 20
EXIT_NO_SHARED_MEMORY = 76
SHARED_MEMORY_FOLDER = "/dev/shm"
SHARED_MEMORY = "shared memory"  # in what torch says when /dev/shm is full
NO_SHARED_MEMORY = (
    "no room in /dev/shm: make it larger (docker run --shm-size=16g) or lower data.num_workers; 0 needs none"
)
DEATH = "DataLoader worker (pid"  # how torch begins, at any point of the main process's main thread
LATE = re.compile(r"DataLoader timed out after ([0-9.]+) seconds")


def begin_reading(worker: int) -> None:
    """Prepare this process for reading; what torch calls first in it."""
    cv2.setNumThreads(1)  # there is one process for each core already
    keep_freed_memory()
    obey_parent_only()
    # Python's own hook for this; torch has none.
    Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]


def _end_unsent(error: BaseException, _batch: object) -> None:
    """End this process, since a batch that cannot be sent is lost and the training would wait for it for good."""
    if SHARED_MEMORY not in str(error):
        traceback.print_exception(error)
        os._exit(1)
    os._exit(EXIT_NO_SHARED_MEMORY)


def note_small_shared_memory(num_bytes: int) -> None:
    """Say so when what reading processes keep ready, so many bytes, has no room in shared memory: 64 MB in Docker."""
    free = _free_shared_memory()
    if launched_rank() == 0 and free is not None and free < num_bytes:
        tell(
            f"note: reading processes keep up to {num_bytes / 1e6:.3g} MB in {_shared_memory()}; if they die, make it "
            "larger (docker run --shm-size=16g) or lower data.num_workers"
        )


def _free_shared_memory() -> int | None:
    try:
        status = os.statvfs(SHARED_MEMORY_FOLDER)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _shared_memory() -> str:
    free = _free_shared_memory()
    return SHARED_MEMORY_FOLDER + ("" if free is None else f" ({free / 1e6:.3g} MB free)")


def keep_freed_memory() -> None:
    """Let this process reuse the memory of decoded images instead of returning it to the system after each.

    By chance of the heap's layout glibc returns it or not, and fetching it again costs as much as decoding.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MALLOC_LIMIT)
        libc.mallopt(M_TRIM_THRESHOLD, MALLOC_KEPT)


def obey_parent_only() -> None:
    """Let this reading process outlive a SIGTERM that is not its parent's.

    Launchers and schedulers send it to all processes of a rank. The rank wants to save and stop then, and still needs
    its readers; when it ends, they end.
    """
    if sys.platform != "linux":  # there is no way to know the sender
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_parent_says, name="SIGTERM", daemon=True).start()


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def deaths_named() -> Iterator[None]:
    """Turn the end or silence of a reading process, wherever torch reports it inside the body, into one line.

    Raises:
        UserError: naming process and signal, or how long nothing came.
    """
    try:
        yield
    except RuntimeError as error:
        if (late := LATE.match(str(error))) is not None:
            raise UserError(
                f"no data came from the reading processes within {float(late[1]):.3g} s (parallel.timeout_minutes): a "
                f"disk or network that does not answer, or {_shared_memory()} too small for their batches (docker run "
                "--shm-size=16g); data.num_workers=0 reads without them"
            ) from None
        if not str(error).startswith(DEATH):
            raise
        # torch has two ways of noticing; the code is in the first one's message, which the second one goes on from
        if f"exit code {EXIT_NO_SHARED_MEMORY}" in f"{error} {error.__cause__}":
            raise UserError(f"a reading process died: {NO_SHARED_MEMORY}") from None
        reason = str(error).split(". ")[0].strip(" .").removeprefix("DataLoader ")
        raise UserError(
            f"a reading process died: {reason}; if memory (RAM or /dev/shm) ran out, lower data.num_workers, else "
            "data.num_workers=0 shows the error"
        ) from None


@contextmanager
def shared_memory_named() -> Iterator[None]:
    """Turn a full /dev/shm, met inside the body while reading processes are started, into one line.

    Raises:
        UserError: saying what helps.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"reading processes cannot be started: {NO_SHARED_MEMORY}") from None
