"""Where an engine takes the values of a model that was built without storage."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Weights(Protocol):
    """Stored parameters, of which any interval can be read: no process needs to hold more than it will keep."""

    def read_into(self, name: str, start: int, target: Tensor) -> None:
        """Copy elements from `start` on of the flattened parameter into `target`, [n], on any device."""
