"""From scores of sequences to means of methods: failures counted as the paper does, intervals by resampling.

A measure that a method must have on a sequence and lacks is a failure, also when nobody else has it. The paper says
only that failed scenes get the worst valid score. Read here as: on one set and for one measure, a method's missing
score becomes the worst score that any of the compared methods got on any sequence of that set. A method that is
compared with nobody thus gets its own worst. "per_method" takes a method's own worst in any case; a method without
any valid score then still gets the worst of all. Shapes: R runs of a method, Q sequences.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from scal3r_eval.bootstrap import BootstrapSettings, mean_interval
from scal3r_eval.measures import DEPTH, POINTS, POSES, SCORES, Measure
from scal3r_eval.methods import Run
from scal3r_eval.recipe import EvalRecipe, Scal3RMethod
from scal3r_eval.results import SequenceScores, Summary
from scal3r_eval.sequences import EvalSequence
from scal3r_train.metrics.trajectory import SEGMENT_LENGTHS_M

Outcome = float | str
WorstOf = Literal["all_methods", "per_method"]
DRAWS = BootstrapSettings()
Scores = Mapping[str, Mapping[str, tuple[SequenceScores, ...]]]
RunLabel = tuple[str, int]
Asked = Mapping[str, Mapping[str, Collection[str]]]
NOTHING_ASKED: Asked = MappingProxyType({})
OVER_SEGMENTS = ("rre_deg_per_100m", "rte_m_per_100m")


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


def summarise(
    scores: Scores, asked: Asked = NOTHING_ASKED, measures: tuple[Measure, ...] = SCORES
) -> dict[str, dict[str, Summary]]:
    """Return, by method and measure, what its sequences and runs add up to.

    A measure that no valid score of a method has and that it is not asked for, such as points of a method without any,
    is left out for it, and sequences that no method has it on, such as RRE on short paths, are left out of it. All
    runs of a method are compared by the same measures, so that one which failed everywhere is in every mean.

    Args:
        scores: by method, by sequence, one a run; all methods have the same sequences.
        asked: by method and sequence, keys of the measures that must be there; where one is not, the method has failed,
            also when nobody else has it.
        measures: the rows of the tables.
    """
    result: dict[str, dict[str, Summary]] = {method: {} for method in scores}
    for measure in measures:
        outcomes = _outcomes(scores, measure, asked)
        if not outcomes:
            continue
        labels = {"/".join(map(str, label)): label for label in outcomes}
        counted = count_failures(
            {name: outcomes[label] for name, label in labels.items()}, measure.better, "all_methods"
        )
        for method in scores:
            runs = [counted[name] for name, label in labels.items() if label[0] == method]
            if runs and all(run.mean is not None for run in runs):
                result[method][measure.key] = _summary(runs)
    return result


def mean_over_runs(runs: tuple[SequenceScores, ...], key: str) -> float | None:
    """Return a measure on one sequence, the mean over its valid runs; None where none has it."""
    values = [value for run in runs if (value := value_of(run, key)) is not None]
    return sum(values) / len(values) if values else None


def value_of(scores: SequenceScores, key: str) -> float | None:
    """Return a measure of one run on one sequence; None for a failure and where it is not defined."""
    return None if scores.failure is not None else scores.metrics.get(key)


def _outcomes(scores: Scores, measure: Measure, asked: Asked) -> dict[RunLabel, dict[str, Outcome]]:
    """Return a value or the reason why there is none, by run and by sequence, of methods that have the measure."""
    by_run: dict[RunLabel, dict[str, SequenceScores]] = {}
    for method, sequences in scores.items():
        for name, runs in sequences.items():
            for run in runs:
                by_run.setdefault((method, run.run), {})[name] = run

    def is_there(method: str, name: str, run: SequenceScores) -> bool:
        """Whether a run has the measure on a sequence, or should."""
        is_asked = measure.key in asked.get(method, {}).get(name, ())
        return is_asked or measure.part in run.partial_failures or value_of(run, measure.key) is not None

    places = [
        (label[0], name)
        for label, row in by_run.items()
        for name, run in row.items()
        if is_there(label[0], name, run)
    ]
    methods, names = {method for method, _ in places}, dict.fromkeys(name for _, name in places)
    return {
        label: {name: _outcome(row[name], measure) for name in names}
        for label, row in by_run.items()
        if label[0] in methods
    }


def _outcome(run: SequenceScores, measure: Measure) -> Outcome:
    value = value_of(run, measure.key)
    if value is not None:
        return value
    return run.failure or run.partial_failures.get(measure.part) or f"it has no {measure.title}"


def _summary(runs: list[CountedScores]) -> Summary:
    values = np.array([list(run.values.values()) for run in runs], float)
    valid = [run.mean_of_valid for run in runs if run.mean_of_valid is not None]
    interval = mean_interval(values, DRAWS) if values.size > 1 else None
    return Summary(
        mean=float(values.mean()),
        mean_of_valid=sum(valid) / len(valid) if valid else None,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        num_sequences=values.shape[1],
        num_failures=sum(len(run.failures) for run in runs),
    )


def asked_measures(runs: Iterable[Run], sequences: Iterable[EvalSequence], recipe: EvalRecipe) -> Asked:
    """Return by method and by sequence the keys of the measures that must be there.

    Every method has poses, with KITTI's errors where the true path is long enough to have any; ours also have points
    and depth where the protocol compares them and the sequence has true depth.
    """
    sequences = list(sequences)
    return {
        run.method: {sequence.name: _asked(run, sequence, recipe) for sequence in sequences} for run in runs
    }


def _asked(run: Run, sequence: EvalSequence, recipe: EvalRecipe) -> frozenset[str]:
    length = sequence.path_length_m
    poses = [one.key for one in POSES if one.key not in OVER_SEGMENTS or length > SEGMENT_LENGTHS_M[0]]
    if length == 0:
        poses.remove("ate_percent")
    if not isinstance(run.settings, Scal3RMethod) or not sequence.record.depth:
        return frozenset(poses)
    points = POINTS if recipe.protocol.points is not None else ()
    depth = DEPTH if recipe.protocol.depth is not None else ()
    return frozenset((*poses, *(one.key for one in (*points, *depth))))
