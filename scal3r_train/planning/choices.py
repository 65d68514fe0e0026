"""What a recipe may choose to need less memory, what each choice costs, and the cheapest one that fits a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch

from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.lora import LoraSettings, add_adapters
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.settings import EngineName
from scal3r_train.planning.communicators import communicator_bytes
from scal3r_train.planning.engine_bytes import EngineBytes, ModelSize, engine_bytes, model_size
from scal3r_train.planning.most_that_fit import most_that_fit
from scal3r_train.planning.step_bytes import Numerics, Precision, StepBytes, StepMeter
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.freezing import FrozenDtype, TrainedParts, choose_trained
from scal3r_train.training.optim import OptimSettings
from scal3r_train.training.trainer import freeze_untrained_heads

GIB = 2**30
DEVICE_SIZES_GB = (8, 12, 24, 48, 80)
MODES: tuple[CheckpointingMode, ...] = ("none", "blocks", "segments")
# In the order in which they are tried: by traffic, then by speed. ZeRO-1 never needs less than ZeRO-2.
ENGINES: tuple[EngineName, ...] = ("ddp", "zero1", "zero2", "fsdp2", "zero3", "zero3_offload")
# Kept free on a device, an assumption and not measured: CUDA's context, workspaces and fragmentation.
RESERVED_SHARE, RESERVED_BYTES = 0.05, GIB
# Of a chunk: beyond, a small network's frames would be counted up for minutes.
MOST_FRAMES = 256


@dataclass(frozen=True)
class Choice:
    """The settings that decide how much memory a rank needs, beside its frames."""

    engine: EngineName
    checkpointing: CheckpointingMode
    precision: Precision
    train: TrainedParts = "all"
    frozen_dtype: FrozenDtype = "fp32"
    lora: LoraSettings | None = None

    def changes(self, other: Choice) -> list[str]:
        """Return the overrides that make `other` of this choice."""
        keys = {
            "engine": "parallel.engine",
            "checkpointing": "model.activation_checkpointing",
            "precision": "parallel.precision",
            "train": "model.train",
            "frozen_dtype": "model.frozen_dtype",
            "lora": "model.lora",
        }
        pairs = [(key, vars(self)[name], vars(other)[name]) for name, key in keys.items()]
        return [
            f"{key}={'null' if value is None else value}" for key, before, value in pairs if value != before
        ]


@dataclass(frozen=True)
class Costs:
    """What choices cost for one network; every distinct step is measured once.

    Attributes:
        network: the model's sizes.
        losses, optim: the recipe's sections.
        world_size: ranks.
        numerics: of the device that is planned for.
        chunks_per_pass: of the recipe's model section.
    """

    network: Scal3RConfig
    losses: ObjectiveSettings
    optim: OptimSettings
    world_size: int
    numerics: Numerics = "cuda"
    chunks_per_pass: int | None = None

    @cached_property
    def _meters(self) -> dict[tuple[TrainedParts, FrozenDtype, LoraSettings | None], StepMeter]:
        return {}

    @cached_property
    def _steps(self) -> dict[tuple[Any, ...], tuple[StepBytes, ModelSize]]:
        return {}

    @staticmethod
    def _settings(choice: Choice) -> tuple[Any, ...]:
        """Return what of a choice a step depends on."""
        return choice.checkpointing, choice.precision, choice.train, choice.frozen_dtype, choice.lora

    def step(self, choice: Choice, size: StepSize) -> StepBytes:
        """Return what a step keeps alive beside the engine's states."""
        return self._measured(choice, size)[0]

    def model_size(self, choice: Choice, size: StepSize) -> ModelSize:
        """Return the sizes of the model's parameters."""
        return self._measured(choice, size)[1]

    def states(self, choice: Choice, size: StepSize) -> EngineBytes:
        """Return what the engine keeps."""
        return engine_bytes(
            choice.engine,
            self.model_size(choice, size),
            self.world_size,
            self.numerics,
            with_average=self.optim.ema_decay is not None,
        )

    def peak(self, choice: Choice, size: StepSize) -> int:
        """Return the most bytes that a rank holds at one time of an optimizer step."""
        accumulates = self.optim.accumulation_steps > 1
        return self.states(choice, size).peak(self.step(choice, size), accumulates=accumulates)

    def frames_that_fit(self, choice: Choice, size: StepSize, budget: int, at_least: int = 0) -> int:
        """Return the most frames per rank that fit, in sequences and chunks as they are; 0 if fewer than `at_least` do.

        Every answer is the shape run's own: the returned number fits and one frame more in each chunk does not. Chunks
        of more than `MOST_FRAMES` are not looked at.
        """
        chunks = size.num_sequences * size.num_chunks

        def peak(num_frames: int) -> int:
            return self.peak(choice, replace(size, num_frames=num_frames))

        settings = self._settings(choice)
        known = {
            other.num_frames: self.peak(choice, other)
            for *others, other in self._steps
            if tuple(others) == settings and replace(other, num_frames=size.num_frames) == size
        } or {size.num_frames: peak(size.num_frames)}
        return chunks * most_that_fit(
            peak,
            budget,
            known,
            at_least=max(1, at_least // chunks),
            at_most=max(MOST_FRAMES, size.num_frames),
        )

    def _measured(self, choice: Choice, size: StepSize) -> tuple[StepBytes, ModelSize]:
        key = (*self._settings(choice), size)
        if key not in self._steps:
            meter = self._meter(choice)
            meter.model.set_activation_checkpointing(choice.checkpointing)
            step = meter.measure(size, choice.precision)
            self._steps[key] = step, model_size(meter.model, self.optim, meter.calls, self.world_size)
        return self._steps[key]

    def _meter(self, choice: Choice) -> StepMeter:
        key = (choice.train, choice.frozen_dtype, choice.lora)
        if key not in self._meters:
            with torch.device("meta"):
                model = Scal3RModel(self.network).train()
                if choice.lora is not None:
                    add_adapters(model, choice.lora)
            model.chunks_per_pass = self.chunks_per_pass
            choose_trained(model, choice.train, choice.frozen_dtype)
            freeze_untrained_heads(model, self.losses)
            self._meters[key] = StepMeter(model, self.losses, self.numerics)
        return self._meters[key]


def budget_of(device_gb: int, world_size: int = 1) -> int:
    """Return the bytes of a device that a plan may use, beside what communicators take."""
    return int(device_gb * GIB * (1 - RESERVED_SHARE)) - RESERVED_BYTES - communicator_bytes(world_size)


def engines_for(world_size: int) -> tuple[EngineName, ...]:
    """Return the engines that a world of this size may choose from."""
    return ENGINES if world_size > 1 else ("single",)


def alternatives(choice: Choice, world_size: int) -> Iterator[Choice]:
    """Yield other choices that train the same parts, the cheapest first.

    First what leaves the results as they are, sharding before recomputing (about a third more time); then bf16, which
    rounds; last the host's memory, which is slow.
    """
    modes = [choice.checkpointing, *(mode for mode in MODES[1:] if mode != choice.checkpointing)]
    engines = engines_for(world_size)
    engines = engines[engines.index(choice.engine) :]
    precisions: list[Precision] = [choice.precision] if choice.precision == "bf16" else ["fp32", "bf16"]
    for is_offloaded, precision, mode, engine in product((False, True), precisions, modes, engines):
        if (engine == "zero3_offload") == is_offloaded:
            yield replace(choice, engine=engine, checkpointing=mode, precision=precision)


def most_frugal(costs: Costs, choice: Choice, size: StepSize) -> Choice:
    """Return the alternative that needs the least memory."""
    return min(alternatives(choice, costs.world_size), key=lambda each: costs.peak(each, size))


def roomiest(costs: Costs, choice: Choice, size: StepSize, budget: int) -> tuple[Choice, int]:
    """Return the alternative with which most frames fit, the choice itself included, and how many.

    The first of equals, which is the cheapest. What fits no more frames than one before is tried at one length only.
    """
    best, most = choice, costs.frames_that_fit(choice, size, budget)
    chunks = size.num_sequences * size.num_chunks
    for other in alternatives(choice, costs.world_size):
        frames = costs.frames_that_fit(other, size, budget, at_least=most + chunks)
        if frames > most:
            best, most = other, frames
    return best, most


def cheapest_that_fits(costs: Costs, choice: Choice, size: StepSize, budget: int) -> Choice | None:
    """Return the cheapest alternative, the choice itself included, with which a step fits.

    Where none does: training the memories alone, which is another training, with what is most frugal otherwise.
    """
    fitting = [each for each in alternatives(choice, costs.world_size) if costs.peak(each, size) <= budget]
    if fitting:
        return fitting[0]
    if (choice.train == "memories" and choice.lora is None) or not costs.network.memory_layers:
        return None
    frugal = most_frugal(costs, choice, size)
    stored: FrozenDtype = "bf16" if frugal.precision == "bf16" else "fp32"
    alone = replace(frugal, train="memories", frozen_dtype=stored, lora=None)
    for engine in engines_for(costs.world_size):
        if costs.peak(replace(alone, engine=engine), size) <= budget:
            return replace(alone, engine=engine)
    return None
