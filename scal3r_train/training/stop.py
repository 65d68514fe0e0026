"""Requests to save and stop: SIGTERM, SIGINT, a limit of hours; agreed on by all ranks between two steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from scal3r_train.parallel.collectives import maximum_over_world

EXIT_STOPPED = 85  # saved and stopped on request: start the same command again to go on
SECONDS_PER_HOUR = 3600
# In the order of the codes that travel: the largest wins when ranks differ.
REASONS = ("", "the limit of checkpoint.max_hours is reached", "SIGINT", "SIGTERM")


class StopRequest:
    """Whether this run should save and stop, and why."""

    def __init__(self, max_hours: float | None) -> None:
        """Start the clock."""
        self._deadline = None if max_hours is None else time.monotonic() + max_hours * SECONDS_PER_HOUR
        self._code = 0

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        """Remember a signal; a second SIGINT interrupts at once."""
        if number == signal.SIGINT and self._code:
            raise KeyboardInterrupt
        self._code = REASONS.index(signal.Signals(number).name)

    def agreed(self, device: torch.device, *, is_busy: bool) -> tuple[str, bool]:
        """Return the reason that any rank has to stop, empty to go on, and whether any rank is busy.

        The same on every rank. A collective: the one between two steps, so a second matter travels with it.
        """
        code = self._code
        if not code and self._deadline is not None and time.monotonic() >= self._deadline:
            code = 1
        mine = torch.tensor([code, int(is_busy)], device=device)
        code, num_busy = maximum_over_world(mine).tolist()
        return REASONS[code], bool(num_busy)


@contextmanager
def listening_for_signals(request: StopRequest) -> Iterator[None]:
    """Let SIGTERM and SIGINT ask for a stop while the body runs."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
