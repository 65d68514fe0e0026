"""How sure an estimate is when its measurements err together: the delete-a-block jackknife.

Neighbouring frames err together, a trajectory drifts, a receiver's error wanders: the spread of single measurements
divided by the root of their number would be far too small. So the measurements, in order of time, are cut into a few
blocks, and the estimate is made anew without each of them (Efron and Tibshirani 1993, chapter 11; Kunsch 1989 for
blocks). Shapes: N measurements, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

NUM_BLOCKS = 10
MIN_BLOCKS = 3  # fewer say nothing of a spread


def middle_mean(values: np.ndarray) -> float:
    """Return the mean of the middle half of values [N].

    Safe from outliers on up to a quarter at either end, and smooth, as a median is not: the jackknife of a median says
    little.
    """
    ordered = np.sort(values)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def jackknife_std(num: int, estimate: Callable[[np.ndarray], float]) -> float | None:
    """Return the standard deviation of an estimate from N measurements in order of time; None for fewer than 3.

    Args:
        num: N.
        estimate: of the measurements that a mask [N] bool leaves.
    """
    num_blocks = min(NUM_BLOCKS, num)
    if num_blocks < MIN_BLOCKS:
        return None
    block = np.arange(num) * num_blocks // num
    values = np.array([estimate(block != one) for one in range(num_blocks)])
    return math.sqrt((num_blocks - 1) / num_blocks * float(((values - values.mean()) ** 2).sum()))
