"""Means over all ranks of values that each rank meets a different number of times, in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scal3r_train.parallel.collectives import total_over_world


class WorldMeans:
    """Sums and counts by key; every rank must be built with the same keys, whatever it then adds."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Start with nothing under each of `keys`."""
        self._entries: dict[str, list[tuple[Tensor | float, Tensor | float]]] = {key: [] for key in keys}

    def add(self, key: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add `count` values that sum to `total` (scalars, detached); nothing is read back from the device."""
        self._entries[key].append((total, count))

    def add_unless_nan(self, key: str, value: Tensor) -> None:
        """Add one value; NaN says that there was nothing to measure and is left out."""
        self.add(key, torch.nan_to_num(value, nan=0.0, posinf=torch.inf, neginf=-torch.inf), ~value.isnan())

    def reduce(self, device: torch.device) -> dict[str, float]:
        """Return the mean of each key over all ranks; keys that no rank met are absent. All ranks call this."""
        rows = [_sum_of(pairs, device) for pairs in self._entries.values()]
        totals = total_over_world(torch.stack(rows)).tolist()
        return {
            key: total / count for key, (total, count) in zip(self._entries, totals, strict=True) if count
        }


def _sum_of(pairs: Sequence[tuple[Tensor | float, Tensor | float]], device: torch.device) -> Tensor:
    """Return (sum of totals, sum of counts), [2] float64."""
    columns = [
        torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in pair])
        for pair in pairs
    ]
    return torch.stack(columns).sum(0) if columns else torch.zeros(2, dtype=torch.float64, device=device)
