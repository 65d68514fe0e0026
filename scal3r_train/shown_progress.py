"""How far a piece of work is: a bar where stderr is a terminal, plain lines elsewhere, and when it will be done.

Training, reconstruction and evaluation show themselves by this. Away from a terminal (a SLURM log, a pipe) nothing but
whole lines is written.
"""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scal3r_train.notes import new_console, printable

SECONDS_BETWEEN_LINES = 20.0
SECONDS_WORTH_A_LINE = 1.0  # work that is over sooner says nothing
MOST_MARKS = 1000
MINUTE, HOUR, DAY = 60, 3600, 86400


def spoken(seconds: float) -> str:
    """Return a duration as people say it, to two units: `8 s`, `3 min 20 s`, `2 h 05 min`, `4 d 03 h`."""
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"
    return f"{whole // DAY} d {whole % DAY // HOUR:02d} h"


class Pace:
    """Judges by the later half of what was done how long the rest will take.

    So a slow start is forgotten, while pauses that come now and then, as validations do, are counted.
    """

    def __init__(self, total: int | None, completed: int = 0) -> None:
        """Start the clock; `completed` of `total` items are done already."""
        self.total = total
        self.completed = completed
        self._start = completed
        self._marks = deque([(time.perf_counter(), completed)])

    def reach(self, completed: int) -> None:
        """Note that so many items are done now."""
        self.completed = completed
        if len(self._marks) > 2 and (completed - self._marks[-2][1]) * MOST_MARKS < (self.total or 0):
            self._marks.pop()  # too near to the one before it to be worth keeping
        self._marks.append((time.perf_counter(), completed))
        while len(self._marks) > 2 and 2 * (self._marks[1][1] - self._start) <= completed - self._start:
            self._marks.popleft()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all items are done; None when nothing tells."""
        (first_time, first), (last_time, last) = self._marks[0], self._marks[-1]
        if self.total is None or last <= first:
            return None
        return (self.total - last) * (last_time - first_time) / (last - first)

    @property
    def left(self) -> str:
        """The same in words, `, 3 min 20 s left`, to be put behind a number; empty when nothing tells or is left."""
        seconds = self.seconds_left
        return "" if seconds is None or self.completed == self.total else f", {spoken(seconds)} left"


class ShownWork:
    """One piece of work on stderr: a bar on a terminal, elsewhere a line now and then and one at its end.

    Everything that is said during the work goes through `say`, so that it neither tears the bar nor is torn by it.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        completed: int = 0,
        *,
        visible: bool = True,
        with_lines: bool = True,
    ) -> None:
        """Show nothing yet.

        Args:
            name: in front of the bar and of every line.
            total: number of items; None: not known yet, or never.
            completed: items that are done already.
            visible: False shows neither bar nor lines, as on every process but the main one.
            with_lines: whether there are lines where there is no bar; False for work that says its own.
        """
        self.pace = Pace(total, completed)
        self._name, self._visible = name, visible
        self._console = new_console(stderr=True)
        has_bar = visible and self._console.is_terminal
        self._has_lines = visible and with_lines and not has_bar
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bar = Progress(*columns, console=self._console, disable=not has_bar)
        self._task = self._bar.add_task(printable(name), total=total, completed=completed, note="")
        self._start = self._last_line = time.perf_counter()

    def __enter__(self) -> ShownWork:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is, or say how long it took."""
        self._bar.stop()
        seconds = time.perf_counter() - self._start
        if self._has_lines and error is None and seconds >= SECONDS_WORTH_A_LINE:
            self.say(f"{self._name}: done in {spoken(seconds)}")

    def expect(self, total: int | None) -> None:
        """Note how many items there are."""
        self.pace.total = total
        self._bar.update(self._task, total=total)

    def reach(self, completed: int, note: str = "") -> None:
        """Note that so many items are done; `note` stands behind the bar."""
        self.pace.reach(completed)
        self._bar.update(self._task, completed=completed, note=printable(note))
        now = time.perf_counter()
        if self._has_lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            total = self.pace.total
            share = f"{100 * completed / total:.0f} % ({completed} of {total})" if total else f"{completed}"
            self.say(f"{self._name}: {share}, {spoken(now - self._start)}{self.pace.left}")

    def say(self, line: str) -> None:
        """Write one line, above the bar if there is one."""
        if self._visible:
            self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
