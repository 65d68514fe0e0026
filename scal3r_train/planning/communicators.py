"""What NCCL's communicators take of a device: a rank has one for the world and one per size of context group."""

from __future__ import annotations

from scal3r_train.parallel.context_groups import largest_blocks

# An assumption, not measured here: what a group of more than two A100 of one node was seen to take
# (https://github.com/NVIDIA/nccl/issues/964; 544 MiB for two). It depends on the links, not on the number of ranks.
BYTES_PER_COMMUNICATOR = 688 * 2**20


def num_communicators(world_size: int) -> int:
    """Return how many communicators a rank has at most: the world's and log2 of its largest block's, 0 when alone."""
    if world_size == 1:
        return 0
    return 1 + max(map(len, largest_blocks(world_size))).bit_length() - 1


def communicator_bytes(world_size: int) -> int:
    """Return the bytes of a device that a rank's communicators are taken to need."""
    return num_communicators(world_size) * BYTES_PER_COMMUNICATOR
