"""Why following ends: a file named STOP, the end of the pipe, a signal, nothing new."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from scal3r_train.config import UserError

STOP_NAME = "STOP"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Ending:
    """Why following ends.

    Attributes:
        reason: for the user and scene.json.
        error: raised once what is there has been written.
        may_refine: whether there is time to reconstruct all frames again.
        takes_rest: whether images that are there and have not been looked at still count.
    """

    reason: str
    error: UserError | None = None
    may_refine: bool = True
    takes_rest: bool = True


class SignalRequest:
    """Whether SIGINT or SIGTERM has asked to end.

    Attributes:
        ending: set by the first signal; a second one interrupts at once.
    """

    def __init__(self) -> None:
        self.ending: Ending | None = None

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        """Remember a signal."""
        if self.ending is not None:
            raise KeyboardInterrupt
        self.ending = Ending(signal.Signals(number).name, may_refine=False)


@contextmanager
def listening_for_signals() -> Iterator[SignalRequest]:
    """Let SIGINT and SIGTERM ask for an end while the body runs; in the main thread only."""
    request = SignalRequest()
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
