"""Metrics that other installed packages add (docs/extending/metric.md): `protocol.metrics` of an evaluation recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from scal3r_eval.measures import SCORES, Measure
from scal3r_eval.methods import Estimate
from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import UserError
from scal3r_train.plugins import METRICS, load_plugin, plugin_version


@dataclass(frozen=True, eq=False)
class ToScore:
    """One run's estimate of one sequence, as an added metric gets it.

    Attributes:
        world_from_cam: [N, 3, 4] float64, aligned to the truth as the protocol says, in its unit (metres).
        truth: [N, 3, 4] float64, the true poses of the same frames.
        estimate: as it was read, before alignment; knows the frames (`places`), the cloud and the depth folder.
        sequence: with its record, for true depth, time stamps and names.
    """

    world_from_cam: Tensor
    truth: Tensor
    estimate: Estimate
    sequence: EvalSequence


@dataclass(frozen=True)
class AddedMetric:
    """What an entry point in `scal3r.metrics` names.

    Attributes:
        measures: the rows that it adds to the tables; their keys are its own, no one else's.
        score: from what is to be scored to a number for each key, None where one is not defined. A UserError says why
            there is none.
    """

    measures: tuple[Measure, ...]
    score: Callable[[ToScore], Mapping[str, float | None]]


def added_measures(names: Iterable[str]) -> tuple[Measure, ...]:
    """Return the rows that metrics add, in the order of their names in the recipe.

    Raises:
        UserError: a metric is not installed, or two of them, or one and ours, share a key.
    """
    owners = {measure.key: "this package" for measure in SCORES}
    rows: list[Measure] = []
    for name in names:
        for measure in load_plugin(METRICS, name, AddedMetric).measures:
            if measure.key in owners:
                raise UserError(
                    f"protocol.metrics: '{name}' and {owners[measure.key]} both have a measure '{measure.key}'; leave "
                    "one out"
                )
            owners[measure.key] = f"'{name}'"
            rows.append(measure)
    return tuple(rows)


def added_scores(names: Iterable[str], given: ToScore) -> tuple[dict[str, float | None], str]:
    """Return the numbers of all metrics by key, and why those that are missing are, empty when none is."""
    scores: dict[str, float | None] = {}
    reasons = []
    for name in names:
        metric = load_plugin(METRICS, name, AddedMetric)
        keys = [measure.key for measure in metric.measures]
        try:
            found = metric.score(given)
            if set(found) != set(keys):
                raise UserError(f"it returned {', '.join(sorted(found)) or 'nothing'}, not {', '.join(keys)}")
            numbers = {key: None if found[key] is None else float(found[key]) for key in keys}  # type: ignore[arg-type]
            if any(number is not None and not math.isfinite(number) for number in numbers.values()):
                raise UserError("it returned a number that is not finite; None says that there is none")
        except Exception as error:  # a stranger's code must not cost our scores
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reasons.append(f"metric '{name}': {kind}{error}")
        else:
            scores |= numbers
    return scores, "; ".join(reasons)


def metric_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the package and version that each metric is from: scores depend on it."""
    return {name: plugin_version(METRICS, name) for name in names}
