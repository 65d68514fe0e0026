"""What each engine keeps on a rank beside activations, and what it sends: counted from the model's parameters.

Numbers are bytes per rank. What the libraries keep was read in their sources and is checked against them on two ranks
by benchmarks/plan_memory.py. T trained parameters, W ranks; fp32 is 4 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.parallel import zero
from scal3r_train.parallel.fsdp2 import units
from scal3r_train.parallel.settings import EngineName
from scal3r_train.planning.step_memory import Numerics, StepMemory
from scal3r_train.training.optim import OptimSettings, parameter_groups

FP32 = 4
# DeepSpeed's defaults where `zero.ZERO_OPTIMIZATION` says nothing, in elements.
PERSISTENCE_THRESHOLD, REUSE_DISTANCE = 100_000, 1_000_000_000


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model's parameters.

    Attributes:
        total, trained: elements of all parameters, and of trained ones.
        frozen_bytes: bytes of frozen ones.
        largest: elements of the largest trained parameter.
        largest_group: elements of the optimizer's largest parameter group.
        largest_unit_bytes: bytes of the largest module that FSDP2 gathers at a time.
        root_bytes: bytes of what is in no such module and gathered throughout.
        gathered_bytes: bytes that FSDP2 gathers in forward: each module as often as it is called.
        small: elements of parameters so small that ZeRO-3 leaves them whole.
        num_memories, fast_weights: memory units whose gradients are summed, and the elements of a sum of all of them.
    """

    total: int
    trained: int
    frozen_bytes: int
    largest: int
    largest_group: int
    largest_unit_bytes: int
    root_bytes: int
    gathered_bytes: int
    small: int
    num_memories: int
    fast_weights: int

    @property
    def total_bytes(self) -> int:
        """Return the bytes of all parameters."""
        return FP32 * self.trained + self.frozen_bytes


def model_size(model: nn.Module, optim: OptimSettings, calls: dict[nn.Module, int]) -> ModelSize:
    """Return the sizes of a model whose modules are called so often in forward."""
    parameters = list(model.parameters())
    trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
    in_groups: list[Any] = [group["params"] for group in parameter_groups(model, optim)]
    gathered = {unit: _bytes(unit.parameters()) for unit in units(model)}
    root = _bytes(parameters) - sum(gathered.values())
    memories = [unit for unit in model.modules() if isinstance(unit, AdaptiveMemoryUnit)]
    memories = [unit for unit in memories if unit.scope == "sequence"]
    return ModelSize(
        total=sum(parameter.numel() for parameter in parameters),
        trained=sum(trained),
        frozen_bytes=_bytes(parameter for parameter in parameters if not parameter.requires_grad),
        largest=max(trained),
        largest_group=max(sum(parameter.numel() for parameter in group) for group in in_groups),
        largest_unit_bytes=max(gathered.values()),
        root_bytes=root,
        gathered_bytes=root + sum(calls.get(unit, 1) * size for unit, size in gathered.items()),
        small=sum(
            parameter.numel() for parameter in parameters if parameter.numel() <= PERSISTENCE_THRESHOLD
        ),
        num_memories=len(memories),
        fast_weights=sum(math.prod(shape) for unit in memories for shape in unit.shapes),
    )


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


@dataclass(frozen=True)
class EngineBytes:
    """What a rank holds.

    Attributes:
        parameters, optimizer: between steps; the optimizer's are moments, fp32 copies and the moving average.
        gradients: before the update.
        buffers: what the engine keeps besides, between steps.
        working: buckets and gathered parameters while forward and backward run.
        gradient_share: the share of a parameter's gradient that stays from its backward on.
        gradients_stay: whether the gradients' memory is kept between steps.
        before_update: gradients at the end of backward where that is more than the share says.
        accumulated: gradients between micro-steps, where an optimizer step has several.
        update: temporaries of the update.
        host: what lies in the host's memory instead.
    """

    parameters: int
    optimizer: int
    gradients: int
    buffers: int = 0
    working: int = 0
    gradient_share: float = 1.0
    gradients_stay: bool = False
    before_update: int = 0
    accumulated: int = 0
    update: int = 0
    host: int = 0

    @property
    def held(self) -> int:
        """Return what a rank holds between steps."""
        return (
            self.parameters + self.optimizer + self.buffers + (self.gradients if self.gradients_stay else 0)
        )

    def peak(self, step: StepMemory, *, accumulates: bool = False) -> int:
        """Return the most that a rank holds at one time of a step, `accumulates` over several micro-steps."""
        backward = max(step.peak(self.gradient_share), self.before_update)
        if accumulates:
            backward = max(backward, step.activations + self.accumulated)
        update = self.update + (0 if self.gradients_stay else self.gradients)
        return self.held + int(max(backward + self.working, update))


def engine_bytes(
    engine: EngineName, size: ModelSize, world_size: int, numerics: Numerics, *, with_average: bool = False
) -> EngineBytes:
    """Return what a rank of an engine holds under AdamW.

    Args:
        engine: which one.
        size: the model's.
        world_size: W.
        numerics: on CUDA AdamW works on all tensors of a group at once, on CPU on one at a time.
        with_average: whether a moving average of the weights is kept.
    """
    whole, piece = FP32 * size.trained, -(-FP32 * size.trained // world_size)
    group = -(-FP32 * size.largest_group // world_size)
    copies = 3 if with_average else 2
    is_cuda = numerics == "cuda"
    # AdamW's denominator: on CPU its two last versions, and that of the tensor before.
    one_by_one = 3 * FP32 * size.largest
    if engine in ("single", "ddp"):
        return EngineBytes(
            parameters=size.total_bytes,
            optimizer=copies * whole,
            gradients=whole,
            buffers=whole if engine == "ddp" else 0,
            accumulated=whole,
            update=FP32 * size.largest_group if is_cuda else one_by_one,
        )
    if engine == "fsdp2":
        return EngineBytes(
            parameters=-(-size.total_bytes // world_size),
            optimizer=copies * piece,
            gradients=piece,
            working=size.root_bytes + 3 * size.largest_unit_bytes,
            gradient_share=1 / world_size,
            accumulated=whole,
            update=group if is_cuda else one_by_one // world_size,
        )
    bucket = FP32 * zero.BUCKET_NUMEL
    flat_update = group if is_cuda else 2 * group
    if engine in ("zero1", "zero2"):
        return EngineBytes(
            parameters=size.total_bytes,
            optimizer=(copies + 1) * piece,
            gradients=piece,
            working=bucket,
            gradient_share=1.0 if engine == "zero1" else 1 / world_size,
            before_update=whole + piece if engine == "zero1" else 0,
            accumulated=whole if engine == "zero1" else piece,
            update=group + flat_update,
        )
    pieces = -(-size.total_bytes // world_size)
    stage3 = EngineBytes(
        parameters=pieces,
        optimizer=(copies + 1) * piece,
        gradients=piece,
        buffers=bucket + FP32 * size.small,
        working=kept_gathered(size) + 2 * FP32 * size.largest,
        gradient_share=0.0,
        gradients_stay=True,
        update=group + flat_update,
    )
    if engine == "zero3":
        return stage3
    host = pieces + (copies + 3) * piece + 2 * group
    return replace(stage3, parameters=0, optimizer=0, gradients=0, update=0, host=host)


def kept_gathered(size: ModelSize) -> int:
    """Return the bytes of parameters that ZeRO-3 holds whole at the end of forward.

    It does not release what the next `stage3_max_reuse_distance` elements need again, and the last ones of forward
    are the first ones of backward.
    """
    distance = zero.ZERO_OPTIMIZATION["zero3"].get("stage3_max_reuse_distance", REUSE_DISTANCE)
    return min(size.total_bytes - FP32 * size.small, FP32 * int(distance) // 2)


@dataclass(frozen=True)
class Traffic:
    """Bytes of a rank's tensors in collectives of one optimizer step."""

    all_reduce: int = 0
    reduce_scatter: int = 0
    all_gather: int = 0


def traffic(engine: EngineName, size: ModelSize, accumulation_steps: int) -> Traffic:
    """Return what an engine sends besides the memories' sums."""
    whole = FP32 * size.trained
    if engine == "single":
        return Traffic()
    if engine == "ddp":
        return Traffic(all_reduce=whole)
    if engine == "zero1":
        return Traffic(all_reduce=whole, all_gather=whole)
    if engine == "zero2":
        return Traffic(all_reduce=accumulation_steps * whole, all_gather=whole)
    if engine == "fsdp2":
        return Traffic(reduce_scatter=whole, all_gather=accumulation_steps * 2 * size.gathered_bytes)
    gathered = 2 * size.total_bytes - kept_gathered(size) - FP32 * size.small
    return Traffic(reduce_scatter=accumulation_steps * whole, all_gather=accumulation_steps * gathered)
