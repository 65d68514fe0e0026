"""Cutting the world into context groups: tiling, purity, and the promised distribution."""

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.model.amu import keep_local
from scal3r_train.parallel.context_groups import (
    ContextGroups,
    all_blocks,
    connect_memories,
    draw_partition,
    largest_blocks,
)
from tests.parallel.exactness_setup import build_model

worlds = st.integers(1, 70)
weight_tables = st.dictionaries(
    st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.floats(0.0, 5.0, allow_subnormal=False), min_size=1
)


def seeded(seed: int) -> Random:
    return Random(seed)


def is_aligned_power_of_two(block: range) -> bool:
    size = len(block)
    return size & (size - 1) == 0 and block.start % size == 0


@given(world=worlds)
def test_largest_blocks_tile_the_world_with_the_binary_digits_of_its_size(world):
    blocks = largest_blocks(world)
    assert [rank for block in blocks for rank in block] == list(range(world))
    assert all(is_aligned_power_of_two(block) for block in blocks)
    assert len(blocks) == world.bit_count()


@given(world=worlds)
def test_all_blocks_are_each_largest_block_and_its_halves(world):
    blocks = all_blocks(world)
    assert len(set(blocks)) == len(blocks) == sum(2 * len(block) - 1 for block in largest_blocks(world))
    assert all(is_aligned_power_of_two(block) for block in blocks)
    assert {block.start for block in blocks if len(block) == 1} == set(range(world))


@settings(max_examples=200)
@given(world=worlds, weights=weight_tables, seed=st.integers(0, 2**31))
def test_a_partition_tiles_the_world_with_known_blocks(world, weights, seed):
    groups = draw_partition(world, weights, seeded(seed))
    assert [rank for group in groups for rank in group] == list(range(world))
    assert set(groups) <= set(all_blocks(world))
    wanted = {size for size, weight in weights.items() if weight > 0}
    assert {len(group) for group in groups} <= wanted | {1}
    assert draw_partition(world, weights, seeded(seed)) == groups


def test_partitions_vary_with_the_generator():
    drawn = {tuple(draw_partition(8, {1: 1, 2: 1, 4: 1, 8: 1}, seeded(seed))) for seed in range(50)}
    assert len(drawn) > 10


@pytest.mark.parametrize("world", [8, 32])
def test_share_of_ranks_per_group_size_is_the_weight(world):
    """Share of size n averages weights[n] / sum; a draw's share lies in [0, 1], so 5 sigma of 4000 is below 0.04."""
    weights = {1: 1.0, 2: 3.0, 4: 2.0, 8: 4.0}
    generator, num_draws, counts = seeded(0), 4000, Counter()
    for _ in range(num_draws):
        for group in draw_partition(world, weights, generator):
            counts[len(group)] += len(group)
    shares = {size: counts[size] / (num_draws * world) for size in weights}
    assert shares == pytest.approx({1: 0.1, 2: 0.3, 4: 0.2, 8: 0.4}, abs=0.04)


def test_a_world_of_six_gives_its_smaller_block_what_fits():
    """Ranks 4 and 5 can only form groups of one or two: 1 to 3, as their weights say."""
    generator, pairs = seeded(0), 0
    for _ in range(4000):
        groups = draw_partition(6, {1: 1.0, 2: 3.0, 4: 2.0}, generator)
        pairs += range(4, 6) in groups
    assert pairs / 4000 == pytest.approx(0.75, abs=0.04)


def test_one_weight_decides_all():
    assert draw_partition(8, {8: 1.0}, seeded(0)) == [range(8)]
    assert draw_partition(8, {1: 1.0}, seeded(0)) == [range(rank, rank + 1) for rank in range(8)]
    assert draw_partition(8, {4: 1.0}, seeded(0)) == [range(4), range(4, 8)]


def test_without_peers_every_group_is_none():
    groups = ContextGroups()
    assert groups[range(1)] is None


def test_connecting_reaches_every_memory_and_can_be_undone():
    model = build_model("conv", torch.float32)
    units = list(model.aggregator.memory_units.values())
    connect_memories(model, "group", "waiting")
    expected = {"group": "group", "waiting": "waiting"}
    assert [unit.sum_over_context.keywords for unit in units] == [expected] * 2
    connect_memories(model, None)
    assert all(unit.sum_over_context is keep_local for unit in units)
