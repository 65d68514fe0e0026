"""Context groups: which ranks share a sequence, and the process groups that let them talk.

The world is covered by aligned blocks whose sizes are powers of two (buddy blocks), so that 2 * world - 1 process
groups, created once in the same order everywhere, serve every partition (docs/numerics.md#context-groups).

Which rank of a context group holds which chunks of a sequence: a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from scal3r_train.model.amu import AdaptiveMemoryUnit, keep_local
from scal3r_train.parallel.collectives import Group, Waiting, start_sum_over_group
from scal3r_train.parallel.process import local_device


def largest_blocks(world_size: int) -> list[range]:
    """Return the largest aligned power-of-two blocks that tile the world, e.g. 6 -> [0..4), [4..6)."""
    blocks, start = [], 0
    while start < world_size:
        size = 1
        while start % (2 * size) == 0 and start + 2 * size <= world_size:
            size *= 2
        blocks.append(range(start, start + size))
        start += size
    return blocks


def all_blocks(world_size: int) -> list[range]:
    """Return every block any partition can use, largest blocks first, halves after their parents."""
    blocks = []
    queue = largest_blocks(world_size)
    while queue:
        block = queue.pop(0)
        blocks.append(block)
        if len(block) > 1:
            queue += [block[: len(block) // 2], block[len(block) // 2 :]]
    return blocks


def draw_partition(
    world_size: int, weights: Mapping[int, float], generator: np.random.Generator
) -> list[range]:
    """Cut the world at random into context groups; pure in the generator's state.

    Going down from the largest blocks, a block of n ranks is kept with probability weights[n] / sum of weights[m] for
    m <= n, else halved. In a power-of-two world the share of *ranks* in groups of size n is then exactly
    weights[n] / sum of weights, since the conditional probabilities telescope.

    Args:
        world_size: number of ranks.
        weights: relative share of ranks per group size; sizes above a block's own are ignored there. Sizes must be
            powers of two and size 1 or some size that fits must have weight, else blocks end at size 1.
        generator: source of randomness.
    """
    groups = []
    queue = largest_blocks(world_size)
    while queue:
        block = queue.pop(0)
        size = len(block)
        total = sum(weight for other, weight in weights.items() if other <= size)
        keep = weights.get(size, 0.0) / total if total > 0 else 0.0
        if generator.random() < keep or size == 1:
            groups.append(block)
        else:
            queue[:0] = [block[: size // 2], block[size // 2 :]]
    return groups


class ContextGroups:
    """The process groups of all blocks, created once; afterwards only looked up."""

    def __init__(self, timeout: timedelta | None = None) -> None:
        """Create the groups. Every process must call this at the same point.

        timeout: how long a collective waits for a peer (None: as long as torch thinks); groups do not inherit it.
        """
        self._groups: dict[range, dist.ProcessGroup] = {}
        if not dist.is_initialized():
            return
        for block in all_blocks(dist.get_world_size()):
            if len(block) == 1:
                continue
            # Only the device's tensors are summed here: without sockets between all members besides.
            backend = "nccl" if local_device().type == "cuda" else None
            group = dist.new_group(list(block), timeout=timeout, backend=backend)
            if dist.get_rank() in block:
                self._warm_up(group)
                self._groups[block] = group

    def __getitem__(self, block: range) -> Group:
        """Return the process group of a block this process belongs to; None when it is alone in it."""
        return None if len(block) == 1 else self._groups[block]

    @staticmethod
    def _warm_up(group: dist.ProcessGroup) -> None:
        """Connect the group's members now, in the same order everywhere, not inside the first step."""
        dist.all_reduce(torch.zeros(1, device=local_device()), group=group)


def connect_memories(model: nn.Module, group: Group, waiting: Waiting = nullcontext) -> None:
    """Let every memory of the model sum its gradients over the group (None: over this process alone).

    `waiting()` is the context in which it waits for the others, see `start_sum_over_group`.
    """
    sum_gradient = (
        keep_local if group is None else partial(start_sum_over_group, group=group, waiting=waiting)
    )
    for module in model.modules():
        if isinstance(module, AdaptiveMemoryUnit):
            module.sum_over_context = sum_gradient


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
