"""Intervals for means over seeds (runs of a method) and sequences, and for paired differences of two methods.

Seeds and sequences are crossed: every seed is tried on every sequence. A draw takes both with replacement and averages
over the crossing, so that an interval is as wide as both kinds of chance make it (Owen 2007, the pigeonhole bootstrap,
which is conservative). Both methods of a difference are averaged over the same draw. Sequences that are parts of one
recording are drawn together, as a group.
Shapes: R seeds, N sequences; values are [R, N], NaN where a sequence has no value (the same for all seeds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from scal3r_train.config import StrictModel


class BootstrapSettings(StrictModel):
    """How intervals are drawn."""

    resamples: int = Field(4000, ge=100, description="draws of seeds and sequences with replacement [draws]")
    level: float = Field(0.95, gt=0.5, lt=1, description="share of draws inside an interval [share]")
    seed: int = Field(0, ge=0, description="seed of the draws [-]")


@dataclass(frozen=True)
class Interval:
    """A mean, and the percentile interval of its bootstrap draws. count: sequences that have a value."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(
    values: np.ndarray, settings: BootstrapSettings, groups: Sequence[str] | None = None
) -> Interval | None:
    """Return the mean of values [R, N] with its interval; None when no sequence has a value.

    groups: N names; sequences of the same name are drawn together. None: each sequence is drawn on its own.
    """
    has_value = ~np.isnan(values).any(0)
    known = values[:, has_value]
    num_seeds, count = known.shape
    if count == 0:
        return None
    rng = np.random.default_rng(settings.seed)
    # how often each was drawn; the mean over the crossing is bilinear in both
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=settings.resamples)
    place = (
        np.arange(count) if groups is None else np.unique(np.array(groups)[has_value], return_inverse=True)[1]
    )
    num_groups = int(place.max()) + 1
    drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=settings.resamples)
    sequences = drawn[:, place]
    means = ((seeds @ known) * sequences).sum(1) / (num_seeds * sequences.sum(1))
    tail = (1 - settings.level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high), count)


def paired_difference(
    method: np.ndarray,
    reference: np.ndarray,
    settings: BootstrapSettings,
    groups: Sequence[str] | None = None,
) -> Interval | None:
    """Return the mean of method - reference, [R, N] each, over sequences where both have a value."""
    return mean_interval(method - reference, settings, groups)
