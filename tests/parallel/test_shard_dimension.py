"""Where FSDP2 cuts: the rule, and that torch's own FSDP2 accepts it and holds the pieces that it foretells."""

import math

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from scal3r_train.parallel.shard_dimension import shard_dimension

SHAPES = [(8, 3), (5,), (1,), (3, 4), (1, 8, 3), (1, 6, 2), (1, 2, 1, 16), (1, 1, 8), (1, 1, 1)]


def test_first_long_dimension_is_cut_where_torch_can() -> None:
    assert shard_dimension((4096, 1024), 8) == shard_dimension((5, 8), 8) == 0
    assert shard_dimension((1, 1024, 4096), 32) == 1
    assert shard_dimension((1, 1, 1024), 8) == 2
    for whole in ((1, 1370, 1024), (1,), (1, 1, 1)):
        assert shard_dimension(whole, 8) is None


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_fsdp2_holds_the_pieces(rank: int) -> None:
    world_size = 4
    module = nn.ParameterList(torch.arange(math.prod(shape)).float().view(shape) for shape in SHAPES)
    wholes = [parameter.detach().clone() for parameter in module]
    cut = {parameter: shard_dimension(parameter.shape, world_size) for parameter in module}

    def placement(parameter: nn.Parameter) -> Shard:
        dimension = cut[parameter]
        assert dimension is not None
        return Shard(dimension)

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        fully_shard(
            module,
            mesh=init_device_mesh("cpu", (world_size,)),
            shard_placement_fn=placement,
            ignored_params={parameter for parameter, dimension in cut.items() if dimension is None},
        )
        for whole, parameter in zip(wholes, module.parameters(), strict=True):
            dimension = shard_dimension(whole.shape, world_size)
            assert isinstance(parameter, DTensor) == (dimension is not None)
            if dimension is None or not isinstance(parameter, DTensor):
                continue
            size = -(-whole.shape[dimension] // world_size) * math.prod(whole.shape[dimension + 1 :])
            expected = whole.flatten()[rank * size : (rank + 1) * size]
            assert torch.equal(parameter.to_local().flatten(), expected)
    finally:
        torch.distributed.destroy_process_group()
