"""The stages of a reconstruction: how long each took, over all starts, and how far it is, for whoever watches.

Between two items of a stage free memory is given back: every chunk leaves a few small results behind, and glibc keeps
the large blocks that were freed between them, so over thousands of chunks a process grows though nothing in it does.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from scal3r_train.config import write_text_atomically
from scal3r_train.shown_progress import ShownWork
from scal3r_train.text_file import parse_json

SECONDS_BETWEEN = 0.1


class HeapTrimmer:
    """Gives free memory back to the system, now and then."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._last = time.monotonic()

    def trim(self) -> None:
        """Do it if the last time was a while ago: it takes about a millisecond."""
        if time.monotonic() - self._last < SECONDS_BETWEEN:
            return
        with suppress(AttributeError):  # only glibc has it, and needs it
            self._library.malloc_trim(0)
        self._last = time.monotonic()


Item = TypeVar("Item")
Track = Callable[[Iterable[int]], Iterable[int]]
KEEP_EVERY_S = 1.0  # the most that a killed run's time is short by, beside the item it was at


class Stages:
    """Times named stages; shows them on stderr when `visible`."""

    def __init__(self, *, visible: bool) -> None:
        self._visible = visible
        self._shown = ShownWork("", visible=False)
        self._num_loops, self._num_done = 1, 0
        self._heap = HeapTrimmer()
        self._file: Path | None = None
        self._name, self._start, self._kept = "", 0.0, 0.0
        self.timings_s: dict[str, float] = {}

    def keep(self, path: Path) -> None:
        """Go on from the times that an interrupted run left in a file, and keep them there."""
        self._file = path
        self.timings_s = _read_timings(path)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name`; `track` inside it moves the bar."""
        self._name, self._start = name, time.perf_counter()
        self._shown = ShownWork(name, visible=self._visible)
        self._num_loops, self._num_done = 1, 0
        try:
            with self._shown:
                yield
        finally:
            self._count()

    def expect_loops(self, number: int) -> None:
        """Note how many loops the stage that runs will make; without this it is one."""
        self._num_loops = number

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a stage's loop, counting them; between two, free memory is given back."""
        if isinstance(items, Sized):
            self._shown.expect(self._num_done + self._num_loops * len(items))
        self._num_loops = max(1, self._num_loops - 1)
        for item in items:
            yield item
            self._num_done += 1
            self._shown.reach(self._num_done)
            self._heap.trim()
            if time.perf_counter() - self._kept > KEEP_EVERY_S:
                self._count()

    def _count(self) -> None:
        """Add what the running stage has taken since the last time, and keep it."""
        now = time.perf_counter()
        self.timings_s[self._name] = self.timings_s.get(self._name, 0.0) + now - self._start
        self._start = self._kept = now
        if self._file is not None:
            # A full disk ends the run where results are lost, on all processes; times are not worth that.
            with suppress(OSError):
                write_text_atomically(self._file, json.dumps(self.timings_s))


def _read_timings(path: Path) -> dict[str, float]:
    """Return the seconds by stage that `Stages` kept, none when they cannot be read."""
    try:
        return {str(name): float(seconds) for name, seconds in parse_json(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
