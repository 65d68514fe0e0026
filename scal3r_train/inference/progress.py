"""The stages of a reconstruction: how long each took, and a progress bar where somebody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scal3r_train.inference.heap import HeapTrimmer

Item = TypeVar("Item")
Track = Callable[[Iterable[int]], Iterable[int]]


class Stages:
    """Times named stages; shows them on stderr when that is a terminal and `visible`."""

    def __init__(self, *, visible: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not (visible and console.is_terminal))
        self._task = self._progress.add_task("", visible=False)
        self._heap = HeapTrimmer()
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name`; `track` inside it moves the bar."""
        start = time.perf_counter()
        self._task = self._progress.add_task(name, total=None)
        with self._progress:
            yield
        self._progress.remove_task(self._task)
        self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - start

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a stage's loop, counting them on the bar; between two, free memory is given back."""
        self._progress.update(self._task, total=len(items) if isinstance(items, Sized) else None)
        for item in items:
            yield item
            self._progress.advance(self._task)
            self._heap.trim()
