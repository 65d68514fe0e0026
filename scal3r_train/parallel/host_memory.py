"""The memory of a machine whose processes share it: how many they are, and what pinned memory really takes."""

from __future__ import annotations

import os
from typing import NamedTuple


class LaunchedSizes(NamedTuple):
    """What a launcher says of the world before this process joins it.

    Attributes:
        rank, world_size: this process among all.
        local_world_size: processes on this machine.
    """

    rank: int
    world_size: int
    local_world_size: int


def launched_sizes() -> LaunchedSizes | None:
    """Return what torchrun or `accelerate launch` says; None under plain `python`."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    world_size = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    return LaunchedSizes(int(os.environ["RANK"]), world_size, local)


def pinned_bytes(num_bytes: int) -> int:
    """Return what torch pins for one tensor: its allocator of pinned memory rounds up to a power of two."""
    return 0 if num_bytes == 0 else 1 << (num_bytes - 1).bit_length()
