"""One rank of the exactness tests: runs every scenario and writes what it predicted and the averaged gradients.

Forked by conftest.py; alone:  torchrun --nproc-per-node 4 tests/parallel/exactness_worker.py OUTPUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput
from scal3r_train.parallel import collectives
from scal3r_train.parallel.collectives import total_over_group
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.process import Process, joined_processes
from tests.parallel.exactness_setup import (
    CHECKPOINTING,
    DDP_ON,
    DTYPES,
    SCENARIOS,
    WORLD_SIZE,
    WRONG_ON,
    WRONG_VARIANTS,
    Scenario,
    build_model,
    chunk_images,
    chunk_loss,
    gradient_vector,
    of_chunk,
    scenario,
)


class IdentityBackward(torch.autograd.Function):
    """The tempting mistake: sum forward, each rank keeps its own gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class MeanBackward(torch.autograd.Function):
    """The other mistake: averaging the gradient as DDP does."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total / dist.get_world_size(ctx.group), None


def replace_sum(model: Scal3RModel, variant: str, group: collectives.Group) -> None:
    """Put another sum over the context group into the memories: one with a wrong gradient, or the one that waits."""
    sums = {
        "identity_backward": IdentityBackward.apply,
        "mean_backward": MeanBackward.apply,
        "waiting": collectives.sum_over_group,
    }
    if group is None or variant not in sums:
        return

    def start(gradient: Tensor) -> Callable[[], Tensor]:
        total = sums[variant](gradient, group)
        return lambda: total

    for unit in model.aggregator.memory_units.values():
        unit.sum_over_context = start


@contextmanager
def recorded_collectives() -> Iterator[list[int]]:
    """Note the size of every all-reduce of this process, in order."""
    sizes: list[int] = []
    original = dist.all_reduce

    def all_reduce(tensor: Tensor, *args: object, **kwargs: object) -> object:
        sizes.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    dist.all_reduce = all_reduce
    try:
        yield sizes
    finally:
        dist.all_reduce = original


def predict(model: torch.nn.Module, case: Scenario, rank: int, dtype: torch.dtype) -> Scal3ROutput:
    """Run the model on this rank's chunks in the form of input that the scenario asks for."""
    sequence, _ = case.sequence_of(rank)
    chunks = [chunk_images(case, sequence, chunk, dtype) for chunk in case.chunks_of(rank)]
    if case.padded_to is not None:
        num_padding = case.padded_to - len(chunks)
        mask = torch.tensor([[True] * len(chunks) + [False] * num_padding])
        padding = [torch.full_like(chunks[0], 0.5)] * num_padding
        return model(torch.stack(chunks + padding)[None], chunk_mask=mask)
    if len({len(chunk) for chunk in chunks}) == 1:
        return model(torch.stack(chunks)[None])
    return model([chunks])


def rank_loss(output: Scal3ROutput, case: Scenario, rank: int, group: collectives.Group) -> Tensor:
    """Return W / S / N_s * sum over this rank's elements (docs/numerics.md#loss-over-ranks)."""
    sequence, _ = case.sequence_of(rank)
    chunks = case.chunks_of(rank)
    count = torch.tensor(float(sum(case.num_frames[chunk] for chunk in chunks)), dtype=torch.float64)
    total = sum(chunk_loss(of_chunk(output, column), sequence, chunk) for column, chunk in enumerate(chunks))
    return WORLD_SIZE / len(case.groups) * total / total_over_group(count, group).item()


@cache
def kept_model(patch_encoder: str, dtype: torch.dtype) -> Scal3RModel:
    """Return the model that successive runs share."""
    return build_model(patch_encoder, dtype)


def fresh_model(case: Scenario, dtype: torch.dtype, is_wrapped: bool) -> Scal3RModel:
    """Return a model without gradients; one that DDP will put its hooks on is not shared."""
    if is_wrapped:
        return build_model(case.patch_encoder, dtype)
    model = kept_model(case.patch_encoder, dtype)
    model.zero_grad()
    return model


def run(
    case: Scenario, dtype_name: str, checkpointing: CheckpointingMode, variant: str, groups: ContextGroups
) -> tuple[dict[str, Tensor], list[int]]:
    """Return this rank's predictions and the averaged gradient, and the sizes of the memories' collectives."""
    rank, dtype = dist.get_rank(), DTYPES[dtype_name]
    model = fresh_model(case, dtype, variant == "ddp")
    model.set_activation_checkpointing(checkpointing)
    group = groups[case.block_of(rank)]
    connect_memories(model, group)
    replace_sum(model, variant, group)
    called = DistributedDataParallel(model) if variant == "ddp" else model
    with recorded_collectives() as sizes:
        output = predict(called, case, rank, dtype)
        loss = rank_loss(output, case, rank, group)
        (loss * len(case.groups) / WORLD_SIZE if variant == "no_world_scale" else loss).backward()
    gradient = gradient_vector(model)
    if variant != "ddp":
        dist.all_reduce(gradient)
        gradient /= WORLD_SIZE
    results = {
        f"chunk{chunk}.{name}": value.detach().contiguous()
        for column, chunk in enumerate(case.chunks_of(rank))
        for name, value in of_chunk(output, column).items()
    }
    return {**results, "gradient": gradient}, sizes


def plan() -> list[tuple[Scenario, str, CheckpointingMode, str]]:
    """Return every (scenario, dtype, checkpointing, variant) to run."""
    right = [(case, dtype, mode, "right") for case in SCENARIOS for dtype in DTYPES for mode in CHECKPOINTING]
    ddp = [(scenario(name), "float64", mode, "ddp") for name in DDP_ON for mode in CHECKPOINTING]
    variants = ("waiting", *WRONG_VARIANTS)
    other = [(scenario(name), "float64", "none", variant) for name in WRONG_ON for variant in variants]
    return right + ddp + other


def plain_collectives(process: Process, groups: ContextGroups) -> dict[str, object]:
    """Return what the collectives without a model answer to numbers made from the rank."""
    rank = process.rank
    pair = range(rank - rank % 2, rank - rank % 2 + 2)
    leaf = torch.tensor([rank + 1.0], requires_grad=True)
    total = collectives.sum_over_group(leaf, groups[pair])
    (total * 10**rank).sum().backward()
    again = torch.tensor([rank + 1.0], requires_grad=True)
    waits = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append("begun")
        yield
        waits.append("ended")

    finish = collectives.start_sum_over_group(again, groups[pair], waiting)
    waits.append("started")
    (finish() * 10**rank).sum().backward()
    return {
        "process": [process.rank, process.world_size, process.is_main, str(process.device)],
        "gathered": collectives.gather_to_all({"rank": rank}),
        "broadcast": collectives.broadcast_from_main(f"from {rank}"),
        "total": collectives.total_over_world(torch.tensor([1.0, rank])).tolist(),
        "maximum": collectives.maximum_over_world(torch.tensor([rank, -rank])).tolist(),
        "pair_count": collectives.total_over_group(torch.tensor(rank), groups[pair]).item(),
        "pair_sum": total.item(),
        "pair_gradient": leaf.grad.item(),
        "pair_started": [again.grad.item(), waits],
        "alone": groups[range(rank, rank + 1)] is None,
    }


def main(output_folder: Path) -> None:
    """Run the plan and write one file of tensors and one of collective sizes for this rank."""
    tensors: dict[str, Tensor] = {}
    notes: dict[str, object] = {}
    with joined_processes() as process:
        assert process.world_size == WORLD_SIZE
        groups = ContextGroups()
        for case, dtype, checkpointing, variant in plan():
            key = f"{case.name}/{dtype}/{checkpointing}/{variant}"
            results, notes[key] = run(case, dtype, checkpointing, variant, groups)
            tensors |= {f"{key}/{name}": value for name, value in results.items()}
        notes["collectives"] = plain_collectives(process, groups)
    save_file(tensors, output_folder / f"rank{process.rank}.safetensors")
    (output_folder / f"rank{process.rank}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
