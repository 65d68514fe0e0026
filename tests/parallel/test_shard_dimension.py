"""Where FSDP2 cuts: the rule, and that torch's own FSDP2 accepts it and holds the pieces that it foretells."""

import math

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from scal3r_train.parallel.shard_dimension import rows_per_rank, shard_dimension

SHAPES = [(8, 3), (5,), (1,), (3, 4), (1, 8, 3), (1, 6, 2), (1, 2, 1, 16), (1, 1, 8), (1, 1, 1)]


def test_long_dimension_behind_ones_is_cut_where_even() -> None:
    assert shard_dimension((1, 1024, 4096), 32) == 1
    assert shard_dimension((1, 1, 1024), 8) == 2
    assert shard_dimension((1, 1370, 1024), 8) == 0, "FSDP2 pads the first dimension only"
    assert shard_dimension((4096, 1024), 8) == shard_dimension((5, 8), 8) == shard_dimension((1,), 8) == 0
    assert rows_per_rank((5, 8), 2) == 3 and rows_per_rank((1, 1024, 4096), 32) == 32


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_fsdp2_holds_the_pieces(rank: int) -> None:
    world_size = 4
    module = nn.ParameterList(torch.arange(math.prod(shape)).float().view(shape) for shape in SHAPES)
    wholes = [parameter.detach().clone() for parameter in module]
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        fully_shard(
            module,
            mesh=init_device_mesh("cpu", (world_size,)),
            shard_placement_fn=lambda parameter: Shard(shard_dimension(parameter.shape, world_size)),
        )
        for whole, parameter in zip(wholes, module.parameters(), strict=True):
            assert isinstance(parameter, DTensor)
            rows, cut = rows_per_rank(whole.shape, world_size), shard_dimension(whole.shape, world_size)
            start = rank * rows * math.prod(whole.shape[cut + 1 :])
            stop = start + rows * math.prod(whole.shape[cut + 1 :])
            assert torch.equal(parameter.to_local().flatten(), whole.flatten()[start:stop])
    finally:
        torch.distributed.destroy_process_group()
