"""One optimizer step: forward, loss, backward over the accumulated micro-steps, vote, update.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.dataset import FailedBatch
from scal3r_train.data.sampling.plan import StepPlan
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.losses.objective import (
    ObjectiveSettings,
    RankSums,
    compute_terms,
    reduce_terms,
)
from scal3r_train.losses.predictions import Predictions
from scal3r_train.losses.targets import build_targets, require_finite, require_sane_scale
from scal3r_train.parallel.collectives import gather_to_all, total_over_group, total_over_world
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.monitoring.chunk_errors import real_chunks

if TYPE_CHECKING:  # recipes hold settings that lead here, and importing transformers' models takes seconds
    from scal3r_train.training.monitoring.step_profiler import StepProfiler


@dataclass(frozen=True)
class MicroStep:
    """A step plan and this rank's data for it."""

    plan: StepPlan
    batch: SequenceBatch | FailedBatch


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        logs: unweighted and weighted loss terms, `loss`, `grad_norm` and that of its parts, seconds.
        is_applied: False when the vote found a non-finite loss or gradient and all ranks skipped the update.
        culprits: the sequences behind a skipped step.
    """

    logs: dict[str, float]
    is_applied: bool
    culprits: tuple[str, ...] = ()


class MicroResult(NamedTuple):
    """What forward and loss of a micro-step give on this rank, all on the device.

    Attributes:
        loss: this rank's share, scaled for the engine's average over ranks; a scalar with gradient.
        logs: detached scalars.
        scale: of the targets, [B, K].
    """

    loss: Tensor
    logs: dict[str, Tensor]
    scale: Tensor

    def without_graph(self) -> MicroResult:
        """Return the numbers alone."""
        return self._replace(loss=self.loss.detach())


def train_step(
    engine: Engine,
    groups: ContextGroups,
    micro_steps: Sequence[MicroStep],
    objective: ObjectiveSettings,
    profiler: StepProfiler,
) -> StepResult:
    """Make one optimizer step; every rank calls it with the same plans and takes the same decision.

    The batches have to be readable: `DataFaults.replace_unreadable` sees to it.
    """
    started = time.perf_counter()
    profiler.saw_plans([micro_step.plan for micro_step in micro_steps])
    batches = [readable(micro_step.batch) for micro_step in micro_steps]
    num_averaged = mean_count([micro_step.plan for micro_step in micro_steps], objective)
    results: list[MicroResult] = []
    for place, (micro_step, batch) in enumerate(zip(micro_steps, batches, strict=True)):
        with engine.micro_step(is_last=place == len(micro_steps) - 1):
            with profiler.phase("forward"):
                result = forward_loss(
                    engine, groups, micro_step.plan, batch, objective, num_averaged, profiler
                )
            with profiler.phase("backward"):
                engine.backward(result.loss)
            results.append(result.without_graph())
    averages, losses = read_results(results, batches)
    culprits = [
        name
        for loss, batch in zip(losses, batches, strict=True)
        if not math.isfinite(loss)
        for name in batch.sequence_ids
    ]
    with profiler.phase("optimizer"):
        norms = engine.gradient_norms()
    grad_norm = norms.pop("total")
    values = {
        **averages,
        "grad_norm": grad_norm,
        **{f"grad_norm/{part}": norm for part, norm in norms.items()},
        "seconds": time.perf_counter() - started,
    }
    is_finite = math.isfinite(averages["loss"]) and math.isfinite(grad_norm)
    voted = vote(batches, culprits, engine.process.device, is_finite=is_finite)
    if voted:
        engine.skip_update()
        return StepResult(values, is_applied=False, culprits=voted)
    with profiler.phase("optimizer"):
        engine.update(grad_norm)
    return StepResult(values, is_applied=True)


def forward_loss(
    engine: Engine,
    groups: ContextGroups,
    plan: StepPlan,
    batch: SequenceBatch,
    objective: ObjectiveSettings,
    num_averaged: float,
    profiler: StepProfiler,
) -> MicroResult:
    """Return what a micro-step gives on this rank; no value is read back from the device."""
    process = engine.process
    ranks = plan.for_rank(process.rank).group.ranks
    group = groups[ranks]
    connect_memories(engine.bare_model, group, profiler.waiting)
    chunks = real_chunks(batch)
    batch = batch.to(process.device, non_blocking=True)

    def over_group(x: Tensor) -> Tensor:
        return total_over_group(x, group)

    targets = build_targets(batch, objective.normalization, over_group, objective.min_valid_pixels)
    heads = engine.bare_model.heads_among(objective.heads)
    with profiler.memories(len(ranks)):
        output = engine.forward(batch.float_images(), batch.chunk_mask, heads, batch.fov())
    profiler.saw_output(output, batch, chunks)
    terms = compute_terms(cast(Predictions, output), targets, objective)  # tensors in, tensors out
    sums = RankSums(process.world_size, total_over_world, over_group)
    loss, logs = reduce_terms(terms, objective.average, batch.chunk_mask, sums, num_averaged)
    logs |= {f"weighted/{name}": entry.weight * logs[name] for name, entry in terms.items()}
    return MicroResult(loss, logs, targets.scale)


def read_results(
    results: Sequence[MicroResult], batches: Sequence[SequenceBatch]
) -> tuple[dict[str, float], list[float]]:
    """Return the micro-steps' mean of every log, and this rank's loss of each: one wait for the device.

    Raises:
        UserError: the ground truth of a sequence has an impossible unit.
    """
    names = list(results[0].logs)
    rows = torch.stack([torch.stack([result.logs[name] for name in names]) for result in results])
    parts = [rows.mean(0), *(result.loss.reshape(1) for result in results)]
    scales = [result.scale.flatten() for result in results]
    numbers = torch.cat([part.double() for part in [*parts, *scales]]).tolist()
    first = len(names) + len(results)
    for scale, batch in zip(scales, batches, strict=True):
        require_sane_scale(numbers[first : first + len(scale)], batch.sequence_ids)
        first += len(scale)
    return dict(zip(names, numbers, strict=False)), numbers[len(names) : len(names) + len(results)]


def mean_count(plans: Sequence[StepPlan], objective: ObjectiveSettings) -> float:
    """Return what the loss is the mean of, chunks or sequences, averaged over the accumulated micro-steps."""
    counts = [plan.num_real_chunks if objective.average == "chunk" else plan.num_sequences for plan in plans]
    return sum(counts) / len(counts)


def readable(batch: SequenceBatch | FailedBatch) -> SequenceBatch:
    """Return the batch, which must not have failed."""
    assert isinstance(batch, SequenceBatch), batch
    return batch


def checked_batch(batch: SequenceBatch | FailedBatch) -> SequenceBatch:
    """Return the batch if every rank has a readable, finite one; otherwise all ranks raise the same error.

    For validation, whose numbers only compare on the same windows every time.

    Raises:
        UserError: the first rank's reason.
    """
    message = batch.message if isinstance(batch, FailedBatch) else _reason_against(batch)
    reasons = [reason for reason in gather_to_all(message) if reason]
    if reasons:
        raise UserError(reasons[0])
    return readable(batch)


def _reason_against(batch: SequenceBatch) -> str:
    try:
        require_finite(batch)
    except UserError as error:
        return str(error)
    return ""


def vote(
    batches: Sequence[SequenceBatch], culprits: Sequence[str], device: torch.device, *, is_finite: bool
) -> tuple[str, ...]:
    """Return the sequences to blame if any rank's loss or gradient is not finite, the same tuple on every rank.

    To blame are the `culprits`, whose own loss is not finite, on any rank; when every loss is finite and only the
    gradient is not, all sequences of the step.
    """
    num_bad = total_over_world(torch.full((1,), 0.0 if is_finite else 1.0, device=device))
    if float(num_bad) == 0:
        return ()
    present = [name for batch in batches for name in batch.sequence_ids]
    answers = gather_to_all((list(culprits), present))
    guilty = {name for names, _ in answers for name in names}
    return tuple(sorted(guilty or {name for _, names in answers for name in names}))
