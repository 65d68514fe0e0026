"""Collectives with the right gradients; identity when there is no group.

All processes of a run as one group: the sum over everyone, results on the main process, failing together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.os_errors import told

Group = dist.ProcessGroup | None
Waiting = Callable[[], AbstractContextManager[None]]


class _SumOverGroup(torch.autograd.Function):
    """Sum over a group whose gradient is also summed over the group.

    Every rank's loss depends on the sum, so the gradient that reaches one rank's summand is the sum of the gradients
    of all ranks. Identity or mean in backward leave the outputs perfect and the gradients wrong
    (docs/numerics.md#sums-and-their-gradients).
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
    """Return the differentiable sum of x over the group; x itself when the group is None.

    Waits at once, in forward and in backward: the plain reference of `start_sum_over_group`.
    """
    return x if group is None else _SumOverGroup.apply(x, group)


class _Flight:
    """All-reduces under way: one in forward, one in backward."""

    def __init__(self, group: dist.ProcessGroup, waiting: Waiting) -> None:
        self.group = group
        self.waiting = waiting
        self._work: dist.Work | None = None

    def start(self, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        self._work = dist.all_reduce(total, dist.ReduceOp.SUM, group=self.group, async_op=True)
        return total

    def land(self) -> None:
        assert self._work is not None
        with self.waiting():
            self._work.wait()
        self._work = None


class _StartSum(torch.autograd.Function):
    """Begin the sum of values; the end of the sum of gradients.

    Its output may be handed to `_LandSum` only: nobody else may read it before it has arrived.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        return flight.start(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.flight.land()
        return gradient, None


class _LandSum(torch.autograd.Function):
    """The end of the sum of values; begin the sum of gradients.

    Backward runs what was recorded last first. What forward did between start and landing comes between the two
    again, so that the gradient's sum is under way while it runs.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        flight.land()
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.flight.start(gradient), None


def start_sum_over_group(
    x: Tensor, group: dist.ProcessGroup, waiting: Waiting = nullcontext
) -> Callable[[], Tensor]:
    """Start the differentiable sum of x over the group and return a function that waits for it and returns it.

    One all-reduce here and one in backward, where it is as much under way as here. Call the function once. What is
    left of waiting, in both directions, happens within `waiting()`, so that it can be timed.
    """
    flight = _Flight(group, waiting)
    total = _StartSum.apply(x, flight)
    return lambda: _LandSum.apply(total, flight)


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


Value = TypeVar("Value")


def world_group() -> Group:
    """Return the group of all processes; None when this process is alone."""
    return dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None


def gather_to_main(value: Any) -> list[Any]:
    """Return the picklable value of every rank, in rank order, on rank 0; an empty list elsewhere.

    Values only travel between the processes of one run, never from a file.
    """
    if not dist.is_initialized():
        return [value]
    is_main = dist.get_rank() == 0
    values: list[Any] | None = [None] * dist.get_world_size() if is_main else None
    dist.gather_object(value, values)
    return values or []


def from_main(compute: Callable[[], Value]) -> Value:
    """Return on every rank what rank 0 computes, picklable; the others compute nothing.

    Raises:
        UserError, RuntimeError: as `raise_on_all_ranks`.
    """
    with raise_on_all_ranks():
        value = compute() if not dist.is_initialized() or dist.get_rank() == 0 else None
    result: Value = broadcast_from_main(value)
    return result


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Let an error in the body on any process end the body with an error on all of them.

    Without this a process that stops leaves its peers waiting in their next collective. The body itself must hold
    no collective; every process must enter it.

    Raises:
        UserError: some process met one, or the operating system refused something; the same line everywhere.
        RuntimeError: another process met an error of another kind (which is raised as it is where it happened).
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # whatever it is, the peers have to learn of it
        error = caught
    message = None if error is None else f"{type(error).__name__}: {error}"
    mistake = str(error) if isinstance(error, UserError) else error and told(error)
    verdicts = gather_to_all((message, mistake))
    mistakes = [mistake for _, mistake in verdicts if mistake is not None]
    failures = [(rank, message) for rank, (message, _) in enumerate(verdicts) if message is not None]
    if error is not None and mistake is None:
        raise error
    if mistakes:
        raise UserError(mistakes[0]) from error
    if failures:
        raise RuntimeError(f"process {failures[0][0]} failed: {failures[0][1]}")


@contextmanager
def entered_on_main(enter: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Hold on rank 0 what `enter` returns while the body runs; every process calls this.

    Raises:
        UserError, RuntimeError: it cannot be entered, as `raise_on_all_ranks`.
    """
    with ExitStack() as held:
        with raise_on_all_ranks():
            if not dist.is_initialized() or dist.get_rank() == 0:
                held.enter_context(enter())
        yield
