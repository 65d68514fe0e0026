"""What each engine keeps on a rank beside activations, and what it sends: counted from the model's parameters.

Numbers are bytes per rank. What the libraries keep was read in their sources and is checked against them on two ranks
by benchmarks/plan_memory.py. T trained parameters, W ranks; fp32 is 4 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.parallel import zero_defaults
from scal3r_train.parallel.settings import EngineName
from scal3r_train.planning.fsdp2_pieces import FP32, Fsdp2Pieces, fsdp2_pieces
from scal3r_train.planning.step_bytes import Numerics, StepBytes
from scal3r_train.training.optim import OptimSettings, parameter_groups

# DeepSpeed's defaults where `zero_defaults.ZERO_OPTIMIZATION` says nothing, in elements.
PERSISTENCE_THRESHOLD, REUSE_DISTANCE = 100_000, 1_000_000_000


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model's parameters.

    Attributes:
        total, trained: elements of all parameters, and of trained ones.
        frozen_bytes: bytes of frozen ones.
        largest: elements of the largest trained parameter.
        largest_group: elements of the optimizer's largest parameter group.
        stage3_piece, stage3_trained_piece: bytes of a rank's pieces under ZeRO-3, each parameter's rounded up to whole
            elements, of all parameters and of trained ones (these in fp32).
        fsdp2: what FSDP2 holds and gathers.
        small: elements of parameters so small that ZeRO-3 leaves them whole.
        num_memories, fast_weights: memory units whose gradients are summed, and the elements of a sum of all of them.
    """

    total: int
    trained: int
    frozen_bytes: int
    largest: int
    largest_group: int
    stage3_piece: int
    stage3_trained_piece: int
    fsdp2: Fsdp2Pieces
    small: int
    num_memories: int
    fast_weights: int

    @property
    def total_bytes(self) -> int:
        """Return the bytes of all parameters."""
        return FP32 * self.trained + self.frozen_bytes


def model_size(
    model: nn.Module, optim: OptimSettings, calls: Mapping[nn.Module, int], world_size: int
) -> ModelSize:
    """Return the sizes of a model whose modules are called so often in forward, and of its pieces on a rank."""
    parameters = list(model.parameters())
    trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
    in_groups: list[Any] = [group["params"] for group in parameter_groups(model, optim)]
    memories = [unit for unit in model.modules() if isinstance(unit, AdaptiveMemoryUnit)]
    memories = [unit for unit in memories if unit.scope == "sequence"]
    return ModelSize(
        total=sum(parameter.numel() for parameter in parameters),
        trained=sum(trained),
        frozen_bytes=_bytes(parameter for parameter in parameters if not parameter.requires_grad),
        largest=max(trained),
        largest_group=max(sum(parameter.numel() for parameter in group) for group in in_groups),
        stage3_piece=sum(
            -(-parameter.numel() // world_size) * parameter.element_size() for parameter in parameters
        ),
        stage3_trained_piece=sum(-(-numel // world_size) * FP32 for numel in trained),
        fsdp2=fsdp2_pieces(model, calls, world_size),
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

    def peak(self, step: StepBytes, *, accumulates: bool = False) -> int:
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
    if engine == "single":
        return EngineBytes(
            parameters=size.total_bytes,
            optimizer=copies * whole,
            gradients=whole,
            accumulated=whole,
            update=FP32 * size.largest_group if is_cuda else one_by_one,
        )
    if engine == "ddp":  # gradients are views of its buckets: one that has come is copied there and gone
        return EngineBytes(
            parameters=size.total_bytes,
            optimizer=copies * whole,
            gradients=whole,
            gradients_stay=True,
            gradient_share=0.0,
            accumulated=whole,
            update=FP32 * size.largest_group if is_cuda else one_by_one,
        )
    if engine == "fsdp2":
        pieces = size.fsdp2
        return EngineBytes(
            parameters=pieces.held,
            optimizer=copies * pieces.trained,
            gradients=pieces.trained,
            working=pieces.root_buffer + 3 * pieces.largest_unit_buffer,
            gradient_share=pieces.trained / whole,
            accumulated=whole,
            update=group if is_cuda else one_by_one // world_size,
        )
    bucket = FP32 * zero_defaults.BUCKET_NUMEL
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
    piece = size.stage3_trained_piece
    stage3 = EngineBytes(
        parameters=size.stage3_piece,
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
    host = size.stage3_piece + (copies + 3) * piece + 2 * group
    return replace(stage3, parameters=0, optimizer=0, gradients=0, update=0, host=host)


def kept_gathered(size: ModelSize) -> int:
    """Return the bytes of parameters that ZeRO-3 holds whole at the end of forward.

    It does not release what the next `stage3_max_reuse_distance` elements need again, and the last ones of forward
    are the first ones of backward.
    """
    distance = zero_defaults.ZERO_OPTIMIZATION["zero3"].get("stage3_max_reuse_distance", REUSE_DISTANCE)
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
        gathered = accumulation_steps * 2 * size.fsdp2.gathered
        return Traffic(
            all_reduce=size.fsdp2.uncut_trained, reduce_scatter=size.fsdp2.reduced, all_gather=gathered
        )
    gathered = 2 * size.total_bytes - kept_gathered(size) - FP32 * size.small
    return Traffic(reduce_scatter=accumulation_steps * whole, all_gather=accumulation_steps * gathered)
