"""FSDP2: parameters, gradients and moments cut along their first dimension, gathered block by block.

`fully_shard` is called directly: the same code then runs on CPU with gloo and on CUDA with NCCL.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.model.precision import computing
from scal3r_train.parallel.engine import MOMENTS, Shard
from scal3r_train.parallel.launch import launched_reshard_after_forward
from scal3r_train.parallel.torch_engine import TorchEngine


class Fsdp2Engine(TorchEngine):
    """Blocks, memories and the rest of the model as sharded units."""

    def _place(self) -> None:
        # Nothing here works in place on the model's outputs.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self.process.device.type, (self.process.world_size,))
        reshard = launched_reshard_after_forward()
        for module in units(self.bare_model):
            fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(self.bare_model, mesh=mesh, reshard_after_forward=reshard)

    def forward(
        self, images: Tensor, chunk_mask: Tensor | None, heads: Sequence[str] | None = None
    ) -> Scal3ROutput:
        """Run the model in the recipe's precision."""
        with computing(self.process.device, reduced=self.is_reduced):
            output = self.bare_model(images, chunk_mask, heads)
        if not torch.is_grad_enabled():  # no backward will come to give up what this forward has gathered
            for module in self.bare_model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        return output

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the last micro-step only."""
        cast(FSDPModule, self.bare_model).set_requires_gradient_sync(is_last)
        yield

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the local rows of the averaged gradients."""
        return {
            name: _local(parameter.grad)
            for name, parameter in self.bare_model.named_parameters()
            if parameter.grad is not None
        }

    @property
    def holds_whole_gradients(self) -> bool:
        """Every rank holds its rows."""
        return False

    def shards(self) -> list[Shard]:
        """Return this rank's rows of every parameter."""
        shards = []
        for name, parameter in self.bare_model.named_parameters():
            weight = _local(parameter.detach())
            first_row = self._first_row(parameter, weight)
            row_size = parameter.numel() // parameter.shape[0]
            state = self.optimizer.state[parameter] if parameter.requires_grad else {}
            moments = {key: _local(state[key]).view(-1) for key in MOMENTS if key in state}
            shards.append(Shard(name, tuple(parameter.shape), first_row * row_size, weight.view(-1), moments))
        return shards

    def _first_row(self, parameter: Tensor, local: Tensor) -> int:
        """Return the first row of the local piece: FSDP2 cuts as torch.chunk does."""
        num_rows, world_size = parameter.shape[0], self.process.world_size
        rows_per_rank = -(-num_rows // world_size)
        first = min(self.process.rank * rows_per_rank, num_rows)
        assert local.shape[0] == min(rows_per_rank, num_rows - first), "FSDP2 changed how it cuts parameters"
        return first


def units(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are gathered one at a time: those that the model names as not to be split."""
    names = set(cast(list[str], model._no_split_modules))
    return [module for module in model.modules() if type(module).__name__ in names]


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local()
