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
        columns = [[pair[place] for pair in pairs] for pairs in self._entries.values() for place in range(2)]
        totals = total_over_world(_sums(columns, device).view(-1, 2)).tolist()
        return {
            key: total / count for key, (total, count) in zip(self._entries, totals, strict=True) if count
        }


def _sums(columns: Sequence[Sequence[Tensor | float]], device: torch.device) -> Tensor:
    """Return the sum of each column, float64 [columns]; all numbers of the host go to the device in one copy."""
    numbers = [[value for value in column if not isinstance(value, Tensor)] for column in columns]
    from_host = torch.tensor([sum(each) for each in numbers], dtype=torch.float64).to(device)
    sums = []
    for column, host_sum in zip(columns, from_host.unbind(), strict=True):
        tensors = [value.to(torch.float64) for value in column if isinstance(value, Tensor)]
        sums.append(host_sum + torch.stack(tensors).sum(0) if tensors else host_sum)
    return torch.stack(sums)
