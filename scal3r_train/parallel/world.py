"""All processes of a run as one group: the sum over everyone, results on the main process, failing together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from scal3r_train.config import UserError
from scal3r_train.parallel.collectives import Group, broadcast_from_main, gather_to_all

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
        UserError, RuntimeError: as `same_fate`.
    """
    with same_fate():
        value = compute() if not dist.is_initialized() or dist.get_rank() == 0 else None
    result: Value = broadcast_from_main(value)
    return result


@contextmanager
def same_fate() -> Iterator[None]:
    """Let an error in the body on any process end the body with an error on all of them.

    Without this a process that stops leaves its peers waiting in their next collective. The body itself must hold
    no collective; every process must enter it.

    Raises:
        UserError: some process met one; the same line everywhere.
        RuntimeError: another process met an error of another kind (which is raised as it is where it happened).
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # whatever it is, the peers have to hear of it
        error = caught
    message = None if error is None else f"{type(error).__name__}: {error}"
    mistake = str(error) if isinstance(error, UserError) else None
    verdicts = gather_to_all((message, mistake))
    mistakes = [mistake for _, mistake in verdicts if mistake is not None]
    failures = [(rank, message) for rank, (message, _) in enumerate(verdicts) if message is not None]
    if error is not None and not isinstance(error, UserError):
        raise error
    if mistakes:
        raise UserError(mistakes[0]) from error
    if failures:
        raise RuntimeError(f"process {failures[0][0]} failed: {failures[0][1]}")
