"""What engines, communicators and machines hold: against torch's own FSDP2, torch's own buckets, and by hand."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.context_groups import all_blocks
from scal3r_train.parallel.host_memory import pinned_bytes
from scal3r_train.parallel.shard_dimension import shard_dimension
from scal3r_train.planning.communicators import num_communicators
from scal3r_train.planning.engine_bytes import engine_bytes, model_size
from scal3r_train.planning.fsdp2_pieces import fsdp2_pieces
from scal3r_train.planning.host_bytes import BYTES_PER_PROCESS, BYTES_PER_READER, host_bytes
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.optim import OptimSettings
from tests.training import tiny


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_pieces_and_gathered_buffers_are_those_of_fsdp2(world_size: int) -> None:
    """`fully_shard` under the same rule, on the first rank of a world that is not there."""
    model = Scal3RModel(Scal3RConfig(**tiny.NETWORK | {"hidden_size": 40, "num_heads": 2}))
    planned = fsdp2_pieces(model, {}, world_size)
    whole = {one for one in model.parameters() if shard_dimension(one.shape, world_size) is None}
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        options = {
            "mesh": init_device_mesh("cpu", (world_size,)),
            "ignored_params": whole,
            "shard_placement_fn": lambda one: Shard(shard_dimension(one.shape, world_size)),
        }
        units = [one for one in model.modules() if type(one).__name__ in model._no_split_modules]
        for unit in [*units, model]:
            fully_shard(unit, **options)
        buffers = {
            unit: world_size
            * sum(4 * one.padded_sharded_param_size.numel() for one in fsdp2_parameters(unit))
            for unit in [*units, model]
        }
    finally:
        torch.distributed.destroy_process_group()
    assert planned.root_buffer == buffers.pop(model)
    assert planned.largest_unit_buffer == max(buffers.values())
    assert planned.gathered == planned.root_buffer + sum(buffers.values())
    assert planned.held == planned.gathered // world_size + sum(4 * one.numel() for one in whole)


def fsdp2_parameters(unit: nn.Module) -> list:
    group = unit._get_fsdp_state()._fsdp_param_group
    return [] if group is None else group.fsdp_params


@pytest.mark.parametrize("world_size", [8, 32])
def test_memories_are_cut_evenly_at_full_size(world_size: int) -> None:
    with torch.device("meta"):
        model = Scal3RModel(Scal3RConfig())
    planned = fsdp2_pieces(model, {}, world_size)
    assert planned.held < 1.1 * planned.real / world_size
    assert planned.gathered < 1.01 * planned.real


def test_gradients_of_ddp_are_its_buckets() -> None:
    """A step of DDP holds one copy of the gradients and keeps it, as `engine_bytes` says."""
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        for _ in range(2):
            wrapped(torch.ones(1, 40)).sum().backward()
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        assert len({one.untyped_storage().data_ptr() for one in gradients}) == 1
    finally:
        torch.distributed.destroy_process_group()
    size = sizes_of(Scal3RConfig(**tiny.NETWORK), 2)
    states = engine_bytes("ddp", size, 2, "cuda")
    assert states.held == size.total_bytes + 3 * 4 * size.trained
    assert (states.gradient_share, states.buffers) == (0, 0)


def sizes_of(config: Scal3RConfig, world_size: int):
    return model_size(Scal3RModel(config), OptimSettings(), {}, world_size)


def test_pieces_of_stage_3_are_whole_elements_of_each_parameter() -> None:
    size = sizes_of(Scal3RConfig(**tiny.NETWORK), 7)
    assert size.stage3_piece * 7 > size.total_bytes
    assert sizes_of(Scal3RConfig(**tiny.NETWORK), 1).stage3_piece == size.total_bytes


@pytest.mark.parametrize("world_size", [1, 2, 6, 8, 24, 1024])
def test_communicators_are_the_worlds_and_those_of_context_groups(world_size: int) -> None:
    blocks = [block for block in all_blocks(world_size) if len(block) > 1]
    most = max((sum(rank in block for block in blocks) for rank in (0, world_size - 1)), default=0)
    assert num_communicators(world_size) == (0 if world_size == 1 else 1 + most)


def test_a_machine_pays_for_every_reader_and_batch() -> None:
    size = StepSize(1, 2, 4, 28, 42)
    model = sizes_of(Scal3RConfig(**tiny.NETWORK), 2)
    states = engine_bytes("zero3_offload", model, 2, "cuda")
    batch = SequenceBatch(
        images=torch.zeros(1, 2, 4, 3, 28, 42, dtype=torch.uint8),
        depth=torch.zeros(1, 2, 4, 28, 42),
        extrinsics=torch.zeros(0),
        intrinsics=torch.zeros(0),
        chunk_mask=torch.zeros(0, dtype=torch.bool),
        sequence_ids=(),
    )
    held = batch.images.nbytes + batch.depth.nbytes
    found = host_bytes(model, states, size, 3)
    assert found.readers == 3 * BYTES_PER_READER
    assert found.batches == 6 * held + 2 * (
        pinned_bytes(batch.images.nbytes) + pinned_bytes(batch.depth.nbytes)
    )
    assert found.offloaded == states.host > 0
    assert found.loading == 4 * model.largest
    assert found.in_steps == BYTES_PER_PROCESS + found.readers + found.batches + found.offloaded
    assert found.most == max(found.at_start, found.in_steps)


def test_pinned_memory_comes_in_powers_of_two() -> None:
    assert [pinned_bytes(size) for size in (0, 1, 4096, 4097, 3 * 2**30)] == [0, 1, 4096, 8192, 4 * 2**30]
