"""Building a model without storage, and where an engine then takes its values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from accelerate import init_empty_weights
from torch import Tensor
from transformers.initialization import no_init_weights


class Weights(Protocol):
    """Stored parameters, of which any interval can be read: no process needs to hold more than it will keep."""

    def read_into(self, name: str, start: int, target: Tensor) -> None:
        """Copy elements from `start` on of the flattened parameter into `target`, [n], on any device."""


@contextmanager
def without_storage() -> Iterator[None]:
    """Build modules whose parameters are on the meta device; buffers, which are small, have their values."""
    with no_init_weights(), init_empty_weights(include_buffers=False):
        yield
