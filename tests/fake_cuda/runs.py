"""What is run on the pretended device: steps of training, validation, reconstruction, streaming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.measured_step import random_batch, separate_plan
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.network.online_memory import OnlineMemory
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import DeviceStore
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.accelerator import build_accelerator
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.parallel.torch_engine import ReplicatedEngine
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.monitoring import step_profiler
from scal3r_train.training.optim import OptimSettings, build_optimizer
from scal3r_train.training.step import MicroStep, train_step
from scal3r_train.training.validation import validate
from tests.fake_cuda.device import CUDA, Traffic, watched_traffic
from tests.training.tiny import replaced

SMALL = {
    **{
        "image_size": 28,
        "patch_size": 14,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
    },
    **{"encoder_layers": 1, "encoder_heads": 2, "tap_layers": [0, 0, 1, 1], "memory_layers": [0, 1]},
    **{"memory_expansion": 2, "newton_schulz_steps": 2},
    **{"camera_heads": 2, "camera_layers": 1, "camera_iterations": 1},
    **{"dpt_features": 8, "dpt_channels": [8, 8, 8, 8], "dpt_refine_channels": 8},
}
SMALL_SIZE = StepSize(1, 2, 3, 28, 42)  # sequences, chunks, frames, height, width
FULL_SIZE = StepSize(1, 1, 16, 392, 518)


@dataclass
class Watched:
    """What a run did.

    Attributes:
        counts: transfers by kind.
        products, convolutions: "DTYPE tf32" or "DTYPE ieee": how often.
        devices: of what came out.
    """

    counts: dict[str, int]
    products: dict[str, int]
    convolutions: dict[str, int]
    devices: list[str] = field(default_factory=list)


def network(sizes: Mapping[str, Any]) -> Scal3RModel:
    """Return a model on the pretended device."""
    with torch.device(CUDA), watched_traffic():  # initialising looks at random values
        return Scal3RModel(Scal3RConfig(**sizes))


def summary(traffic: Traffic, *outputs: Tensor) -> Watched:
    """Return what a run did."""

    def tally(seen: list[tuple[torch.dtype, bool]]) -> dict[str, int]:
        names = [f"{str(dtype).removeprefix('torch.')} {'tf32' if tf32 else 'ieee'}" for dtype, tf32 in seen]
        return {name: names.count(name) for name in sorted(set(names))}

    devices = sorted({str(tensor.device) for tensor in outputs})
    return Watched(traffic.counts, tally(traffic.products), tally(traffic.convolutions), devices)


def training_step(
    sizes: Mapping[str, Any],
    size: StepSize,
    precision: str,
    checkpointing: str,
    *,
    is_logged: bool = False,
    num_micro_steps: int = 1,
) -> Watched:
    """Make one optimizer step."""
    model = network(sizes).train()
    model.set_activation_checkpointing(checkpointing)
    engine = _engine(model, precision, num_micro_steps)
    groups, profiler = ContextGroups(engine.timeout), step_profiler.StepProfiler(engine)
    step = [MicroStep(separate_plan(size, 1), random_batch(size)) for _ in range(num_micro_steps)]

    def make() -> None:
        with profiler.step(is_logged=is_logged):
            result = train_step(engine, groups, step, ObjectiveSettings(), profiler)
        assert result.is_applied, result.culprits
        if is_logged:
            profiler.values()

    with watched_traffic() as traffic:
        make()
    return summary(traffic, *model.parameters(), *(shard.weight for shard in engine.shards()))


def validation(sizes: Mapping[str, Any], size: StepSize, precision: str) -> Watched:
    """Validate on one window."""
    engine = _engine(network(sizes), precision, 1)
    with watched_traffic() as traffic:
        validate(
            engine,
            ContextGroups(engine.timeout),
            lambda _: separate_plan(size, 1),
            [random_batch(size)],
            1,
            ObjectiveSettings(),
        )
    return summary(traffic)


def reconstruction(
    sizes: Mapping[str, Any], size: StepSize, precision: str, points: str, num_chunks: int
) -> Watched:
    """Pass chunks through the network, all memories of the video."""
    runner = ChunkRunner(network(sizes).eval().requires_grad_(requires_grad=False), points, precision)
    predictions: dict[int, ChunkPrediction] = {}
    images = torch.zeros(size.num_frames, 3, size.height, size.width, dtype=torch.uint8)
    with watched_traffic() as traffic:
        schedule = SegmentSchedule(runner, lambda _: images, DeviceStore(), size.num_frames)
        schedule.run(list(range(num_chunks)), predictions.__setitem__)
    return summary(traffic, *_tensors(predictions[0]))


def streaming(sizes: Mapping[str, Any], size: StepSize, precision: str, num_chunks: int) -> Watched:
    """Pass chunks one after another."""
    runner = ChunkRunner(network(sizes).eval().requires_grad_(requires_grad=False), "head", precision)
    images = torch.zeros(size.num_frames, 3, size.height, size.width, dtype=torch.uint8)
    memory = OnlineMemory(runner, size.num_frames - 1)
    with watched_traffic() as traffic:
        predictions = [memory.predict(images) for _ in range(num_chunks)]
    return summary(traffic, *_tensors(predictions[-1]))


def _tensors(prediction: ChunkPrediction) -> list[Tensor]:
    return [value for value in vars(prediction).values() if isinstance(value, Tensor)]


def _engine(model: Scal3RModel, precision: str, accumulation_steps: int) -> ReplicatedEngine:
    """Return an engine on the pretended device; clock, memory and peak speed are those of a CPU."""
    step_profiler.CudaTimer = step_profiler.WallTimer
    step_profiler.memory_use = lambda _device: {}
    step_profiler.peak_flops = lambda _device: None
    process = Process(0, 1, CUDA)
    accelerator = build_accelerator("single", accumulation_steps)
    engine = ReplicatedEngine("single", ParallelSettings(precision=precision), process, accelerator)
    # Parameters are on the device; torch's `to` would try to swap what it cannot swap.
    with replaced("to", lambda module, *_: module, torch.nn.Module):
        engine.prepare(model, lambda placed: build_optimizer(placed, OptimSettings()), 1.0)
    return engine
