"""A process that gets a signal while it makes a step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scal3r_train.training import trainer
from tests.training import tiny


@contextmanager
def signalled_in(step: int, number: int) -> Iterator[None]:
    """Send this process a signal while it makes a step."""
    original, count = trainer.train_step, 0

    def train_step(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        return original(*arguments)

    with tiny.replaced("train_step", train_step):
        yield
