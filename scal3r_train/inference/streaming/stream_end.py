"""Why a stream of images ends, and the signals (Ctrl-C, SIGTERM) that ask for its end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from scal3r_train.config import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class StreamEnd:
    """Why a stream ends, and what happens then.

    Attributes:
        reason: for the user and scene.json.
        error: raised once what is there has been written.
        may_refine: whether there is time to reconstruct all frames again.
        takes_rest: whether images that are there and have not been read yet still count.
    """

    reason: str
    error: UserError | None = None
    may_refine: bool = True
    takes_rest: bool = True


EndCheck = Callable[[], StreamEnd | None]


class StopSignal:
    """Whether SIGINT or SIGTERM has asked for the end.

    Attributes:
        end: set by the first signal; a second one interrupts at once.
    """

    def __init__(self) -> None:
        self.end: StreamEnd | None = None

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """Remember a signal."""
        if self.end is not None:
            raise KeyboardInterrupt
        self.end = StreamEnd(signal.Signals(number).name, may_refine=False)


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Let SIGINT and SIGTERM ask for the end while the body runs; in the main thread only."""
    stop_signal = StopSignal()
    before = {number: signal.signal(number, stop_signal.handle) for number in SIGNALS}
    try:
        yield stop_signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
