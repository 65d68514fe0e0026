"""Depth error after median scaling. Shapes: ... any leading axes, S frames, H W pixels."""

from __future__ import annotations

from torch import Tensor


def abs_rel_after_median(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of |s * estimate - truth| / truth over valid pixels, s from the ratio of medians.

    Args:
        estimate, truth: depth of one scene, any equal shape; truth 0 is invalid. NaN when nothing is valid.
    """
    valid = truth > 0
    if not valid.any():
        return truth.new_full((), float("nan"))
    ours, true = estimate[valid], truth[valid]
    scale = true.median() / ours.median()
    return ((scale * ours - true).abs() / true).mean()
