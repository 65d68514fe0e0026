"""Collectives with the right gradients; identity when there is no group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None


class _SumOverGroup(torch.autograd.Function):
    """Sum over a group whose gradient is also summed over the group.

    Every rank's loss depends on the sum, so the gradient that reaches one rank's summand is the sum of the gradients
    of all ranks. Identity or mean in backward leave the outputs perfect and the gradients wrong (DISTRIBUTED.md 1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.contiguous().clone()
        dist.all_reduce(total, dist.ReduceOp.SUM, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, dist.ReduceOp.SUM, group=ctx.group)
        return total, None


def sum_over_group(x: Tensor, group: Group) -> Tensor:
    """Return the differentiable sum of x over the group; x itself when the group is None."""
    return x if group is None else _SumOverGroup.apply(x, group)


def total_over_group(x: Tensor, group: Group) -> Tensor:
    """Return the sum of x over the group without gradient; for counts and statistics."""
    total = x.detach().clone()
    if group is not None:
        dist.all_reduce(total, dist.ReduceOp.SUM, group=group)
    return total


def total_over_world(x: Tensor) -> Tensor:
    """Return the sum of x over all processes without gradient."""
    return total_over_group(x, dist.group.WORLD if dist.is_initialized() else None)


def maximum_over_world(x: Tensor) -> Tensor:
    """Return the elementwise maximum of x over all processes without gradient."""
    result = x.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(result, dist.ReduceOp.MAX)
    return result


def gather_to_all(value: Any) -> list[Any]:
    """Return the picklable value of every rank, in rank order, on every rank.

    Values only travel between the processes of one run, never from a file.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_main(value: Any) -> Any:
    """Return rank 0's picklable value on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_everyone() -> None:
    """Return when all processes have come here."""
    if dist.is_initialized():
        dist.barrier()
