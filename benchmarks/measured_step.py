"""The bytes that are alive in a real optimizer step of a real engine: what the planner's numbers are checked against.

On CPU the bytes of all tensors that operations return, on CUDA torch's own peak. Shapes: B sequences, K chunks, S
frames, H W pixels.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from scal3r_train.data.sampling.curriculum import Resolution
from scal3r_train.data.sampling.plan import GroupPlan, StepPlan, StepShape, Window
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.process import current_process
from scal3r_train.parallel.settings import EngineName, ParallelSettings
from scal3r_train.planning.live_bytes import LABELS, CountLiveBytes, LiveBytes
from scal3r_train.planning.step_bytes import Precision
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.monitoring.step_profiler import StepProfiler
from scal3r_train.training.optim import OptimSettings, build_optimizer
from scal3r_train.training.step import MicroStep, train_step

WARM_UP_STEPS = 2  # engines settle their buckets and traces in the first steps


@dataclass(frozen=True)
class Measured:
    """Bytes of one rank.

    Attributes:
        held: between steps: parameters, optimizer, buffers.
        peak: the most in a step.
    """

    held: int
    peak: int


def measured_step(
    model: Scal3RModel,
    size: StepSize,
    precision: Precision,
    losses: ObjectiveSettings,
    engine_name: EngineName = "single",
    num_steps: int = WARM_UP_STEPS + 1,
) -> Measured:
    """Train a model for a few steps on random images and measure the last step; every rank calls this.

    Everything that is alive must have been made by the call or by the model: nothing else is counted on CPU.
    """
    process = current_process()
    is_cuda = process.device.type == "cuda"
    live = LiveBytes()
    everything = dict.fromkeys(LABELS, 1.0)
    for parameter in model.parameters():
        live.track(parameter.untyped_storage())
    with CountLiveBytes(live, storages_resize=engine_name == "fsdp2"):
        engine = build_engine(ParallelSettings(engine=engine_name, precision=precision), process, 1)
        groups = ContextGroups(engine.timeout)
        engine.prepare(model, lambda placed: build_optimizer(placed, OptimSettings()), 1.0)
        gc.collect()
        live.restart_history()
        held = torch.cuda.memory_allocated() if is_cuda else live.peak(everything)
        watch = StepProfiler(engine)
        step = [MicroStep(separate_plan(size, process.world_size), random_batch(size))]
        for number in range(num_steps):
            gc.collect()
            live.restart_history()
            if is_cuda:
                torch.cuda.reset_peak_memory_stats()
            with watch.step(is_logged=False):
                result = train_step(engine, groups, step, losses, watch)
            assert result.is_applied, f"step {number} was skipped"
    peak = torch.cuda.max_memory_allocated() if is_cuda else live.peak(everything)
    engine.close()
    return Measured(held, peak)


def separate_plan(size: StepSize, world_size: int) -> StepPlan:
    """Return a plan in which every rank trains alone on windows of that size."""
    shape = StepShape(size.num_frames, 0, size.num_chunks, Resolution(height=size.height, width=size.width))
    windows = (Window(0, 0, 0, 1, False, size.num_chunks, 0),) * size.num_sequences
    return StepPlan(0, shape, tuple(GroupPlan(range(rank, rank + 1), windows) for rank in range(world_size)))


def random_batch(size: StepSize) -> SequenceBatch:
    """Return one rank's batch of that size, random images and depth, no motion."""
    chunks = (size.num_sequences, size.num_chunks)
    frames = (*chunks, size.num_frames)
    intrinsics = torch.tensor(
        [[size.width, 0.0, size.width / 2], [0, size.width, size.height / 2], [0, 0, 1]]
    )
    return SequenceBatch(
        images=torch.randint(256, (*frames, 3, size.height, size.width), dtype=torch.uint8),
        depth=1 + torch.rand(*frames, size.height, size.width),
        extrinsics=torch.eye(3, 4).expand(*frames, 3, 4).clone(),
        intrinsics=intrinsics.expand(*frames, 3, 3).clone(),
        chunk_mask=torch.ones(chunks, dtype=torch.bool),
        sequence_ids=tuple(f"random {number}" for number in range(size.num_sequences)),
    )
