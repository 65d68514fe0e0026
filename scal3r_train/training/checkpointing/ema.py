"""Exponential moving average of the trained weights, kept piece by piece where the weights live."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scal3r_train.parallel.engine import Shard


class MovingAverage:
    """ema <- decay * ema + (1 - decay) * weight after every update, for each interval that this process holds."""

    def __init__(self, decay: float, shards: Sequence[Shard]) -> None:
        """Start at the present weights of all trained parameters."""
        self.decay = decay
        self.values: dict[str, Tensor] = {
            shard.name: shard.weight.clone() for shard in shards if shard.moments
        }

    def update(self, shards: Sequence[Shard]) -> None:
        """Move towards the weights after an update."""
        weights = {shard.name: shard.weight for shard in shards if shard.moments}
        names = [name for name, value in self.values.items() if value.numel() > 0]
        torch._foreach_lerp_(
            [self.values[name] for name in names], [weights[name] for name in names], 1 - self.decay
        )
