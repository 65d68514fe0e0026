"""Sequences that a method failed on: counted as the paper does, and listed.

The paper says only that failed scenes get the worst valid score. Read here as: on one set and for one measure, a
method's missing score becomes the worst score that any of the compared methods got on any sequence of that set. A
method that is compared with nobody thus gets its own worst. "per_method" takes a method's own worst in any case; a
method without any valid score then still gets the worst of all. Values: a finite number, or the reason of the failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = float | str
WorstOf = Literal["all_methods", "per_method"]


@dataclass(frozen=True)
class CountedScores:
    """One measure of one method on one set, failures filled in.

    Attributes:
        values: by sequence; None where no method has any valid score.
        failures: reason by failed sequence.
        mean: of all values; None where no method has any valid score.
        mean_of_valid: of the sequences that did not fail; None where all did.
        fill: what failed sequences got.
    """

    values: dict[str, float | None]
    failures: dict[str, str]
    mean: float | None
    mean_of_valid: float | None
    fill: float | None


def count_failures(
    outcomes: Mapping[str, Mapping[str, Outcome]],
    better: Literal["lower", "higher"] = "lower",
    worst_of: WorstOf = "all_methods",
) -> dict[str, CountedScores]:
    """Return the scores of every method on a set, failed sequences with the worst valid score.

    Args:
        outcomes: by method, then by sequence: the score, or why there is none. Numbers that are not finite are
            failures too. All methods must name the same sequences.
        better: which end of the measure is good.
        worst_of: whose scores the worst is taken from.
    """
    sequences = {frozenset(row) for row in outcomes.values()}
    assert len(sequences) <= 1, "methods were given different sequences"
    worst = max if better == "lower" else min
    valid = {
        method: {name: float(value) for name, value in row.items() if _is_valid(value)}
        for method, row in outcomes.items()
    }
    everything = [value for row in valid.values() for value in row.values()]
    counted = {}
    for method, row in outcomes.items():
        own = list(valid[method].values())
        pool = own if worst_of == "per_method" and own else everything
        fill = worst(pool) if pool else None
        values = {name: valid[method].get(name, fill) for name in row}
        numbers = [value for value in values.values() if value is not None]
        counted[method] = CountedScores(
            values=values,
            failures={
                name: value if isinstance(value, str) else f"the score is {value}"
                for name, value in row.items()
                if name not in valid[method]
            },
            mean=sum(numbers) / len(numbers) if numbers else None,
            mean_of_valid=sum(own) / len(own) if own else None,
            fill=fill,
        )
    return counted


def _is_valid(value: Outcome) -> bool:
    return not isinstance(value, str) and math.isfinite(value)
