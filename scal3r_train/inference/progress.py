"""The stages of a reconstruction: how long each took, over all starts, and a progress bar where somebody watches.

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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scal3r_train.config import write_text_atomically

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
    """Times named stages; shows them on stderr when that is a terminal and `visible`."""

    def __init__(self, *, visible: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not (visible and console.is_terminal))
        self._task = self._progress.add_task("", visible=False)
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
        self._task = self._progress.add_task(name, total=None)
        try:
            with self._progress:
                yield
        finally:
            self._progress.remove_task(self._task)
            self._count()

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a stage's loop, counting them on the bar; between two, free memory is given back."""
        self._progress.update(self._task, total=len(items) if isinstance(items, Sized) else None)
        for item in items:
            yield item
            self._progress.advance(self._task)
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
        return {str(name): float(seconds) for name, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
