"""What every loss is made of before anything is averaged: sums and numbers of element losses, per chunk.

Shapes: B sequences, K chunks; "..." any further dimensions of a chunk (frames, pixels, components). Nothing
here replaces a non-finite value: a NaN or infinity reaches the total, and the trainer's vote finds it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """Sum of the element losses of each chunk and the number of elements summed, both [B, K] floating.

    Padding chunks and chunks without supervision are zero in both, and still attached to the graph of the
    prediction, so that every parameter gets a gradient on every rank.
    """

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class WeightedTerm:
    """A term and its factor in the objective. Logs carry the unweighted mean."""

    weight: float
    term: LossTerm


def working_precision(tensor: Tensor) -> Tensor:
    """The tensor in the dtype of the losses: float64 stays, everything narrower becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def cap(values: Tensor, maximum: float) -> Tensor:
    """Values above `maximum` become `maximum` and lose their gradient; non-finite ones stay as they are."""
    return torch.where(torch.isfinite(values), values.clamp(max=maximum), values)


def per_chunk(values: Tensor, like: Tensor) -> Tensor:
    """One value per chunk, [B, K], as [B, K, 1, ...] that broadcasts against `like` [B, K, ...]."""
    return values.reshape(*values.shape, *([1] * (like.dim() - 2)))


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values where mask (broadcastable, bool) holds, else 0 with gradient 0, whatever stood there."""
    return torch.where(mask, values, torch.zeros_like(values))


def masked_term(values: Tensor, mask: Tensor) -> LossTerm:
    """Sum of values [B, K, ...] where mask of the same shape holds, and the number of those."""
    total = masked(values, mask).flatten(2).sum(-1)
    return LossTerm(total=total, count=mask.flatten(2).sum(-1).to(total.dtype))
