"""Activation checkpointing: what is computed again in backward instead of being kept.

Recomputation goes through `__call__` of every module that owns the parameters it reads, so that sharding engines,
which gather a module's parameters around its call only, see the second run as they saw the first. No collective
lies inside of what is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

CheckpointingMode = Literal["none", "blocks", "segments"]
Result = TypeVar("Result")


def recompute(function: Callable[..., Result], *inputs: Any, draws: bool = False) -> Result:
    """Call `function`, keep its inputs and outputs only, and call it again when backward needs the rest.

    `draws`: whether it draws random numbers, which then are the same again; only adapters with dropout do.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=draws)


class Recomputed(nn.Module):
    """A module that runs parts of itself again in backward once `gradient_checkpointing_enable` has been called.

    The two attributes are transformers' protocol. Its base class for them is not used because importing it takes
    seconds, which `scal3r plan` has no use for.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def recomputed(self, function: Callable[..., Result], *inputs: Any) -> Result:
        """Call `function`, again in backward while this module is checkpointed and in training mode."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(function, *inputs)
        return function(*inputs)
