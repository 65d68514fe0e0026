"""Where the time of training steps goes: phases that follow each other without gap, so that their shares sum to 1.

On CUDA the marks between phases are events on the stream, read when they have long passed: no step waits for the
clock. What is measured there is the device's time: a phase that the device spends waiting for the host counts as
long as the device waits. On CPU the marks are readings of the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

PHASES = ("data", "forward", "sync", "backward", "optimizer", "other")

Span = tuple[str, Any]  # a phase and the mark at which it begins


class Timer(Protocol):
    """Marks in time."""

    def mark(self) -> Any:
        """Return a mark of now, or of when the device comes to it."""

    def is_past(self, mark: Any, *, wait: bool) -> bool:
        """Return whether the mark can be read; with `wait` it can after this call."""

    def seconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks that are past."""


class WallTimer:
    """The host's clock."""

    def mark(self) -> float:
        """Return now in seconds."""
        return time.perf_counter()

    def is_past(self, mark: float, *, wait: bool) -> bool:
        """Return True: every mark is."""
        return True

    def seconds(self, first: float, second: float) -> float:
        """Return the difference."""
        return second - first


class CudaTimer:
    """Events on the current stream of the device."""

    def mark(self) -> torch.cuda.Event:
        """Return an event that the device will pass after all work given to it so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def is_past(self, mark: torch.cuda.Event, *, wait: bool) -> bool:
        """Return whether the device has passed the event."""
        if wait:
            mark.synchronize()
        return mark.query()

    def seconds(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Return the device's time between two events."""
        return first.elapsed_time(second) / 1000


class StepClock:
    """Adds up the time of each phase over the steps since it was last asked."""

    def __init__(self, timer: Timer) -> None:
        """Measure with `timer`."""
        self._timer = timer
        self._open: list[str] = []
        self._spans: list[Span] = []
        self._pending: list[list[Span]] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure one step; what lies in no phase of its own is `other`. A step that fails leaves no time behind."""
        self._open, self._spans = [], []
        with self.phase("other"):
            yield
        self._spans.append(("", self._timer.mark()))
        self._pending.append(self._spans)
        self._add_up(wait=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as `name`, and not as the phase around it."""
        assert name in PHASES
        self._open.append(name)
        self._spans.append((name, self._timer.mark()))
        try:
            yield
        finally:
            self._open.pop()
            if self._open:
                self._spans.append((self._open[-1], self._timer.mark()))

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call; waits for the device to finish the last step."""
        self._add_up(wait=True)
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _add_up(self, *, wait: bool) -> None:
        while self._pending and self._timer.is_past(self._pending[0][-1][1], wait=wait):
            spans = self._pending.pop(0)
            for (name, begin), (_, end) in zip(spans[:-1], spans[1:], strict=True):
                self._seconds[name] += self._timer.seconds(begin, end)
