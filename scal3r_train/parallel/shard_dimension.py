"""Along which dimension FSDP2 cuts a parameter: one rule for the engine and for the planner."""

from __future__ import annotations

from collections.abc import Sequence


def shard_dimension(shape: Sequence[int], world_size: int) -> int:
    """Return the dimension along which a parameter of this shape is cut into `world_size` pieces.

    The first dimension, unless its length is 1: then the first longer one, where that can be cut evenly, since FSDP2
    pads pieces along the first dimension only and refuses uneven ones along others. All dimensions before the returned
    one have length 1, so a rank's piece is always one interval of the flattened parameter.
    """
    for dimension, length in enumerate(shape):
        if length > 1:
            return dimension if length % world_size == 0 else 0
    return 0


def rows_per_rank(shape: Sequence[int], world_size: int) -> int:
    """Return the length of the first rank's piece along `shard_dimension`; others are padded to it."""
    return -(-shape[shard_dimension(shape, world_size)] // world_size)
