"""What the Adaptive Memory Units do in a logged step, seen from inside without changing anything.

Shapes: B sequences, E heads; see model/amu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.training.monitoring.world_means import WorldMeans


def memory_units(model: nn.Module) -> dict[str, AdaptiveMemoryUnit]:
    """Return the model's memories by the layer they follow."""
    named = model.named_modules()
    return {name.rpartition(".")[2]: unit for name, unit in named if isinstance(unit, AdaptiveMemoryUnit)}


def memory_keys(model: nn.Module) -> list[str]:
    """Return the keys under which the probes of a model's memories add."""
    names = ("gradient_norm", *(f"update_{matrix}" for matrix in FastWeights._fields), "gate")
    return [f"amu/{layer}/{name}" for layer in memory_units(model) for name in names]


@contextmanager
def watched_memories(model: nn.Module, means: WorldMeans, num_ranks: int) -> Iterator[None]:
    """Add what the memories do within to `means`; `num_ranks` of the context group see the same sequences.

    Only the forward must run within: activation checkpointing computes again in backward, when no probe is there to
    count it twice.
    """
    units = memory_units(model)
    for layer, unit in units.items():
        unit.observer = MemoryProbe(f"amu/{layer}", means, 1 / num_ranks)
    try:
        yield
    finally:
        for unit in units.values():
            unit.observer = None


class MemoryProbe:
    """Observer of one memory (model/amu.py); everything it computes is detached."""

    def __init__(self, prefix: str, means: WorldMeans, share: float) -> None:
        """Add under `prefix`; a sequence counts as `share` of one, since other ranks see it too."""
        self._prefix = prefix
        self._means = means
        self._share = share

    @torch.no_grad()
    def saw_update(self, weights: FastWeights, gradient: FastWeights, updated: FastWeights) -> None:
        """Add the norm of the summed gradient over all three matrices, and |W' - W| / |W| of each matrix."""
        norms = torch.stack([matrix.flatten(1).norm(dim=1) for matrix in gradient]).norm(dim=0)
        self._add("gradient_norm", norms)
        for name, before, after in zip(FastWeights._fields, weights, updated, strict=True):
            self._add(f"update_{name}", (after - before).flatten(1).norm(dim=1) / before.norm())

    @torch.no_grad()
    def saw_gate(self, gate: Tensor, chunk_mask: Tensor | None) -> None:
        """Add the mean |gate|, gate [B, K, ...], over tokens and channels of the real chunks."""
        magnitudes = gate.detach().abs().flatten(2).mean(-1)
        is_real = torch.ones_like(magnitudes, dtype=torch.bool) if chunk_mask is None else chunk_mask
        # Not a product with the mask: what stands in padding chunks may be anything.
        real = torch.where(is_real, magnitudes, torch.zeros_like(magnitudes))
        self._means.add(f"{self._prefix}/gate", real.sum(), is_real.sum())

    def _add(self, name: str, values: Tensor) -> None:
        """Add one value per sequence, [B]."""
        self._means.add(f"{self._prefix}/{name}", self._share * values.sum(), self._share * len(values))
