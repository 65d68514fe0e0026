"""Along which dimension FSDP2 cuts a parameter."""

from __future__ import annotations

from collections.abc import Sequence


def shard_dimension(shape: Sequence[int], num_ranks: int) -> int | None:
    """Return the dimension along which a parameter of this shape is cut over the ranks; None when it stays whole.

    The first one longer than 1: along one of length 1 a single rank would hold everything, and gathering would pad
    the others' nothing to the same size. A memory's weights, [1, D, M], are cut along D. The first dimension of a
    parameter may be cut into unequal pieces, the last ones shorter or empty; torch's `fully_shard` asks of any other
    that it divides by the ranks, else the parameter, a token or a position embedding, stays whole on every rank.

    A rank's piece is one interval of the flattened parameter.
    """
    dimension = next((place for place, length in enumerate(shape) if length > 1), None)
    if dimension is None or dimension == 0:
        return dimension
    return dimension if shape[dimension] % num_ranks == 0 else None
