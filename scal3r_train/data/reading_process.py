"""The processes that read ahead: whom they obey, and what is said when one dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scal3r_train.config import UserError

DEATH = "DataLoader worker (pid"  # how torch begins, at any point of the main process's main thread


def obey_parent_only(worker: int) -> None:
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
    """Turn the end of a reading process, wherever torch tells of it inside the body, into one line.

    Raises:
        UserError: naming process and signal.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(DEATH):
            raise
        told = str(error).split(". ")[0].strip(" .").removeprefix("DataLoader ")
        raise UserError(
            f"a reading process died: {told}; if memory (RAM or /dev/shm) ran out, lower data.num_workers, else "
            "data.num_workers=0 shows the error"
        ) from None
