"""FSDP2: parameters, gradients and moments cut into pieces, gathered block by block.

The units are those of Accelerate's policy. `fully_shard` is called here and not by `Accelerator.prepare`: that does
nothing without a GPU, cuts along the first dimension alone, and finds the optimizer's parameters again by the address
of their storage, which a model that is built without storage does not have (docs/engines.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as ShardPlacement

from scal3r_train.model.modeling_scal3r import ONLY_PREDICTIONS, Scal3ROutput
from scal3r_train.model.precision import computing
from scal3r_train.parallel.accelerator import fsdp2_plugin, fsdp2_units
from scal3r_train.parallel.engine import MOMENTS, Shard, allocate_moments, stepped_parameters
from scal3r_train.parallel.shard_dimension import shard_dimension
from scal3r_train.parallel.torch_engine import TorchEngine
from scal3r_train.parallel.weights import Weights

# Their matrices are read by autocast alone, which would round them to bf16 after gathering instead of before.
BLOCKS = ("AggregatorBlock", "EncoderBlock")


class Fsdp2Engine(TorchEngine):
    """Blocks, memories and the rest of the model as sharded units."""

    def _place(self, weights: Weights | None) -> None:
        # Nothing here works in place on the model's outputs.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        model, num_ranks = self.bare_model, self.process.world_size
        plugin = fsdp2_plugin(model)  # Accelerate's state drops it where there is no GPU
        self._whole = {
            name: parameter
            for name, parameter in model.named_parameters()
            if shard_dimension(parameter.shape, num_ranks) is None
        }
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.process.device.type, (num_ranks,)),
            "reshard_after_forward": plugin.reshard_after_forward,
            "shard_placement_fn": lambda parameter: ShardPlacement(_dimension(parameter.shape, num_ranks)),
            "ignored_params": set(self._whole.values()),
        }
        # Inputs are left to autocast.
        rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for module in fsdp2_units(plugin, model):
            is_rounded = self.settings.gathered_dtype == "bf16" and type(module).__name__ in BLOCKS
            fully_shard(module, mp_policy=rounded if is_rounded else MixedPrecisionPolicy(), **options)
        fully_shard(model, **options)
        if weights is not None:
            self._read(weights)

    def _read(self, weights: Weights) -> None:
        """Give this rank's pieces storage on its device, and their values."""
        model, device = self.bare_model, self.process.device
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.to_empty(device=device)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in model.named_parameters():
            piece = _local(parameter.detach())
            start = self._start(name, parameter)
            weights.read_into(name, start, piece.view(-1))

    def _wrap(self) -> None:
        allocate_moments(self.optimizer, stepped_parameters(self.optimizer))

    def forward(
        self,
        images: Tensor,
        chunk_mask: Tensor | None,
        heads: Sequence[str] | None = None,
        fov: Tensor | None = None,
    ) -> Scal3ROutput:
        """Run the model in the recipe's precision."""
        with computing(self.process.device, reduced=self.is_reduced):
            output = self.bare_model(images, chunk_mask, heads, fov=fov, **ONLY_PREDICTIONS)
        if not torch.is_grad_enabled():  # no backward will come to give up what this forward has gathered
            for module in self.bare_model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        return output

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the last micro-step only."""
        with super().micro_step(is_last=is_last):
            cast(FSDPModule, self.bare_model).set_requires_gradient_sync(is_last)
            yield
            if is_last:
                self._average_whole_gradients()

    def _average_whole_gradients(self) -> None:
        """Average the gradients of what stays whole, which `fully_shard` leaves alone: together, they are few."""
        trained = [parameter for parameter in self._whole.values() if parameter.requires_grad]
        if not trained:
            return
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in trained]
        flat = torch.cat([gradient.view(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.process.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the local pieces of the averaged gradients."""
        return {
            name: _local(parameter.grad)
            for name, parameter in self.bare_model.named_parameters()
            if parameter.grad is not None
        }

    def holds_whole_gradient(self, name: str) -> bool:
        """Every rank holds its pieces, but for what is not cut."""
        return name in self._whole

    def shards(self) -> list[Shard]:
        """Return this rank's piece of every parameter."""
        shards = []
        for name, parameter in self.bare_model.named_parameters():
            weight = _local(parameter.detach())
            state = self.optimizer.state[parameter] if parameter.requires_grad else {}
            moments = {key: _local(state[key]).view(-1) for key in MOMENTS if key in state}
            start, shape = self._start(name, parameter), tuple(parameter.shape)
            shards.append(Shard(name, shape, start, weight.view(-1), moments, name in self._whole))
        return shards

    def _start(self, name: str, parameter: Tensor) -> int:
        """Return the first element of this rank's piece: FSDP2 cuts as torch.chunk does."""
        if name in self._whole:
            return 0
        dimension, num_ranks = _dimension(parameter.shape, self.process.world_size), self.process.world_size
        length = parameter.shape[dimension]
        per_rank = -(-length // num_ranks)
        first = min(self.process.rank * per_rank, length)
        local = _local(parameter.detach())
        assert local.shape[dimension] == min(per_rank, length - first), "FSDP2 changed how it cuts parameters"
        return first * (parameter.numel() // length)


def units(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are gathered one at a time; the rest of the model is one more unit."""
    return fsdp2_units(fsdp2_plugin(model), model)


def _dimension(shape: torch.Size, num_ranks: int) -> int:
    dimension = shard_dimension(shape, num_ranks)
    assert dimension is not None  # those are ignored
    return dimension


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
