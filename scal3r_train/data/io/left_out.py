"""What an input or an index leaves out, and why: said at once, or counted by cause and said at the end.

Whoever leaves something out calls `leave_out`; `scal3r data index` counts (`counted`), everybody else is told at once.
Nothing may be skipped without such a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from scal3r_train.notes import note
from scal3r_train.parallel.process import launched_rank


@dataclass(frozen=True)
class Cause:
    """Why something is left out.

    Attributes:
        text: what follows "3 frames", such as "without a pose"; empty where the unit says it all.
        remedy: what to do about it; empty where nothing can be done.
    """

    text: str
    remedy: str = ""


NO_IMAGE = Cause("whose image is not there")
NO_POSE = Cause("without a pose")
NO_CAMERA = Cause("without a calibration")
NOT_LISTED = Cause("that nothing lists", "they have no pose, or other names than the images that have one")
TURNED = Cause(
    "to be turned by EXIF",
    "poses belong to the stored pixels; turn the pixels and pose them anew, or remove the tag",
)
OTHER_SHAPE = Cause("of another shape than their camera", "were they cropped?")
DAMAGED = Cause("that cannot be read")
NO_FRAMES = Cause("without a usable frame")
COUNTED_ONLY = Cause("that the adapter counts as missing")
FRAME, IMAGE, SEQUENCE = "frame", "image", "sequence"


@dataclass
class _Entry:
    num: int
    example: str
    where: Path
    is_in_many: bool = False


@dataclass
class Ledger:
    """What was left out, by unit and cause, with one example each.

    Attributes:
        names: of the single files by their folders, of the last sequence only; see `forget_names`.
    """

    entries: dict[tuple[str, Cause], _Entry] = field(default_factory=dict)
    names: dict[Path, set[str]] = field(default_factory=dict)
    said: set[object] = field(default_factory=set)

    def add(self, cause: Cause, names: Sequence[str], where: Path, unit: str, num: int | None = None) -> None:
        """Count; the arguments are those of `leave_out`."""
        count = len(names) if num is None else num
        entry = self.entries.get((unit, cause))
        if entry is None:
            self.entries[unit, cause] = _Entry(count, names[0], where)
        else:
            entry.num += count
            entry.is_in_many |= entry.where != where
        if unit != SEQUENCE:
            for name in names:
                path = where / name
                self.names.setdefault(path.parent, set()).add(path.name)

    def num(self, *units: str) -> int:
        """How many of some units were left out."""
        return sum(entry.num for (unit, _), entry in self.entries.items() if unit in units)

    def forget_names(self) -> None:
        """Drop the names of files, which are only needed while their folder is looked through."""
        self.names.clear()

    def lines(self) -> list[str]:
        """One line a cause, with an example."""
        return [
            _line(unit, cause, entry.num, entry.example, entry.where, is_in_many=entry.is_in_many)
            for (unit, cause), entry in self.entries.items()
        ]

    def summary(self) -> str:
        """Return what was left out in one phrase, the causes divided by commas; "" for nothing."""
        return ", ".join(
            f"{entry.num} {_plural(unit, entry.num)} {cause.text}".rstrip()
            for (unit, cause), entry in self.entries.items()
        )


_counting: ContextVar[Ledger | None] = ContextVar("left_out", default=None)


@contextmanager
def counted() -> Iterator[Ledger]:
    """Count what is left out inside, instead of saying it at once."""
    ledger = Ledger()
    token = _counting.set(ledger)
    try:
        yield ledger
    finally:
        _counting.reset(token)


def leave_out(
    cause: Cause, names: Sequence[str], where: Path, unit: str = FRAME, num: int | None = None
) -> None:
    """Say that something is left out. Without names nothing is said.

    Args:
        cause: why.
        names: what; the first is the example. Of files, paths relative to `where`.
        where: folder or file that they belong to.
        unit: what one of them is, in the singular.
        num: how many they are, where `names` are examples only.
    """
    if not names:
        return
    ledger = _counting.get()
    if ledger is not None:
        ledger.add(cause, names, where, unit, num)
    elif launched_rank() == 0:  # of several processes of a run the first speaks
        note(_line(unit, cause, len(names) if num is None else num, names[0], where, is_in_many=False))


def note_once(subject: object, line: str) -> None:
    """Tell the user; while counting, only the first line about a subject."""
    ledger = _counting.get()
    if ledger is not None:
        if subject in ledger.said:
            return
        ledger.said.add(subject)
    note(line)


def _line(unit: str, cause: Cause, num: int, example: str, where: Path, *, is_in_many: bool) -> str:
    what = f"{num} {_plural(unit, num)} {cause.text}".rstrip()
    place, name = ("", f"{where}/{example}") if is_in_many else (f"{where}: ", example)
    remedy = f"; {cause.remedy}" if cause.remedy else ""
    return f"{place}{what} {'are' if num != 1 else 'is'} left out, {name} for one{remedy}"


def _plural(unit: str, num: int) -> str:
    return unit if num == 1 or unit.endswith("s") else f"{unit}s"
