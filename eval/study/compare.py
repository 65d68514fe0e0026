"""Whether a study came out as another did: `python -m scal3r_eval.study.compare ONE/results.json OTHER/results.json`.

It prints how many numbers agree and those that do not, and ends with 0 either way: chance alone makes some differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError, run_command
from scal3r_train.notes import answer
from scal3r_train.text_file import parse_json

TABLES = ("means", "differences", "by_length", "by_length_differences", "by_memory")
NUMBER_OF_FILES = 2


@dataclass(frozen=True)
class Pair:
    """The same number of two studies; `name` is where it stands in results.json, `one` and `other` have intervals."""

    name: str
    one: Mapping[str, float]
    other: Mapping[str, float]

    @property
    def is_reproduced(self) -> bool:
        """Whether each mean lies in the other's interval."""
        return _holds(self.one, self.other["mean"]) and _holds(self.other, self.one["mean"])

    @property
    def overlaps(self) -> bool:
        """Whether the intervals have a number in common."""
        return max(self.one["low"], self.other["low"]) <= min(self.one["high"], self.other["high"])

    @property
    def line(self) -> str:
        """The number in both, for people."""
        return f"{self.name}: {_text(self.one)} and {_text(self.other)}"


def pairs(one: Any, other: Any, name: str = "") -> Iterator[Pair]:
    """Yield the numbers with an interval that two results have at the same place."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return
    if {"mean", "low", "high"} <= one.keys() & other.keys():
        yield Pair(name, one, other)
        return
    for key in one:
        if key in other:
            yield from pairs(one[key], other[key], f"{name}/{key}" if name else str(key))


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return what to print about two documents results.json."""
    lines = []
    for table in TABLES:
        found = list(pairs(one["results"][table], other["results"][table], table))
        reproduced, overlapping = sum(p.is_reproduced for p in found), sum(p.overlaps for p in found)
        lines.append(
            f"{table}: {len(found)} numbers; in {reproduced} each mean lies in the other's interval, "
            f"in {overlapping} the intervals overlap"
        )
        lines += [f"  {pair.line}" for pair in found if not pair.is_reproduced]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Compare two files; returns 0.

    Raises:
        UserError: a file is missing or no results of a study.
    """
    if len(argv) != NUMBER_OF_FILES:
        raise UserError("give two files: python -m scal3r_eval.study.compare ONE.json OTHER.json")
    answer(*compare(*map(_read, argv)).splitlines())
    return 0


def _read(name: str) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = parse_json(Path(name).read_text(encoding="utf-8"))
        missing = [table for table in TABLES if table not in document["results"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name} is no results.json of a study ({error})") from None
    if missing:
        raise UserError(f"{name} is no results.json of a study: it lacks {', '.join(missing)}")
    return document


def _holds(interval: Mapping[str, float], value: float) -> bool:
    return interval["low"] <= value <= interval["high"]


def _text(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
