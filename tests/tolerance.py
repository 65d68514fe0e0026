"""How far two computations of the same numbers may lie apart that differ in the order of their sums.

Another order is what other vector widths, fused multiply-adds, batch shapes and numbers of ranks come to. Bit equality
is asked for only where the same operations run on the same shapes in the same order on the same machine.
"""

import math

import torch


def rounding(dtype: torch.dtype, length: int, repeats: int = 1) -> float:
    """Return the tolerance of sums of `length` terms, relative to the sum of the terms' absolute values.

    Each addition rounds by at most eps / 2 of its partial sum, evenly spread: a standard deviation of 0.29 eps. Signs
    are as good as random, so that n additions come to 0.29 sqrt(n) eps, and the difference of two computations to
    0.41 sqrt(n) eps; the tolerance is two and a half times that. `repeats`: how many such sums follow one another,
    each on the results of the one before, so that errors add up (training steps).
    """
    return repeats * math.sqrt(length) * torch.finfo(dtype).eps
