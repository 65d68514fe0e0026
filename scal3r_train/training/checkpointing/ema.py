"""Exponential moving average of the trained weights, kept piece by piece where the weights live."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scal3r_train.parallel.engine import Shard


class MovingAverage:
    """ema <- d * ema + (1 - d) * weight after every update, for each interval that this process holds.

    After n updates d is the smaller of `decay` and (1 + n) / (10 + n), the rule of TensorFlow's
    ExponentialMovingAverage: the average reaches back over about a tenth of the run, until `decay` is the longer
    memory. With `decay` from the start, 0.998 say, 30 % of an average after 600 steps would be the weights before the
    first.
    """

    def __init__(self, decay: float, shards: Sequence[Shard]) -> None:
        """Start at the present weights of all trained parameters."""
        self.decay = decay
        self.values: dict[str, Tensor] = {
            shard.name: shard.weight.clone() for shard in shards if shard.moments
        }

    def update(self, shards: Sequence[Shard], num_updates: int) -> None:
        """Move towards the weights after the update that makes `num_updates` of this run."""
        weights = {shard.name: shard.weight for shard in shards if shard.moments}
        names = [name for name, value in self.values.items() if value.numel() > 0]
        torch._foreach_lerp_(
            [self.values[name] for name in names],
            [weights[name] for name in names],
            1 - min(self.decay, (1 + num_updates) / (10 + num_updates)),
        )
