"""From scores of sequences to means of methods: failures counted, intervals by resampling.

Shapes: R runs of a method, Q sequences.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scal3r_eval.bootstrap import BootstrapSettings, mean_interval
from scal3r_eval.measures import POSES, SCORES, Measure
from scal3r_eval.results import SequenceScores, Summary
from scal3r_train.metrics.failures import CountedScores, Outcome, count_failures

DRAWS = BootstrapSettings()

Scores = Mapping[str, Mapping[str, tuple[SequenceScores, ...]]]
RunLabel = tuple[str, int]


def summarise(scores: Scores) -> dict[str, dict[str, Summary]]:
    """Return, by method and measure, what its sequences and runs add up to.

    A measure that no valid score of a method has, such as points of a method without any, is left out for it, and
    sequences that no method has it on, such as RRE on short paths, are left out of it.

    Args:
        scores: by method, by sequence, one a run; all methods have the same sequences.
    """
    result: dict[str, dict[str, Summary]] = {method: {} for method in scores}
    for measure in SCORES:
        outcomes = _outcomes(scores, measure)
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


def _outcomes(scores: Scores, measure: Measure) -> dict[RunLabel, dict[str, Outcome]]:
    """Return a value or the reason why there is none, by run and by sequence, of those that have the measure."""
    by_run: dict[RunLabel, dict[str, SequenceScores]] = {}
    for method, sequences in scores.items():
        for name, runs in sequences.items():
            for run in runs:
                by_run.setdefault((method, run.run), {})[name] = run
    have = {label: row for label, row in by_run.items() if _has_measure(row, measure)}
    names = dict.fromkeys(
        name for row in have.values() for name, run in row.items() if value_of(run, measure.key) is not None
    )
    return {label: {name: _outcome(row[name], measure) for name in names} for label, row in have.items()}


def _has_measure(row: Mapping[str, SequenceScores], measure: Measure) -> bool:
    """Whether a run is compared by a measure: it has it somewhere, or failed everywhere, where every run has poses."""
    if any(value_of(run, measure.key) is not None for run in row.values()):
        return True
    return measure in POSES and all(run.failure is not None for run in row.values())


def _outcome(run: SequenceScores, measure: Measure) -> Outcome:
    value = value_of(run, measure.key)
    return (run.failure or f"it has no {measure.title}") if value is None else value


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
