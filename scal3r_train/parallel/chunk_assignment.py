"""Which rank of a context group holds which chunks of a sequence: a pure function."""

from __future__ import annotations


def assign_chunks(num_chunks: int, num_ranks: int) -> list[range]:
    """Return for each rank its consecutive chunks; the first ranks hold one more when they do not divide.

    Ranks beyond the number of chunks get an empty range and still take part in every collective. In training the
    step plan gives every rank equally many chunks instead: a rank without chunks has no graph to send gradients
    through, and its peers would wait for it in backward.
    """
    base, extra = divmod(num_chunks, num_ranks)
    sizes = [base + (rank < extra) for rank in range(num_ranks)]
    starts = [sum(sizes[:rank]) for rank in range(num_ranks)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
