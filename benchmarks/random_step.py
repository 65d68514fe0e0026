"""The trainer's own steps on random images: what benchmarks measure where no data is to be read."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch.utils.data import DataLoader

from benchmarks.measured_step import random_batch, separate_plan
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.process import current_process
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.monitoring.step_profiler import StepProfiler
from scal3r_train.training.optim import OptimSettings, build_optimizer
from scal3r_train.training.step import MicroStep, train_step


def random_model(config: Scal3RConfig, device: torch.device) -> Scal3RModel:
    """Return a model with random weights, made where it stays: a billion numbers take the host half a minute."""
    torch.manual_seed(0)
    with device:
        return Scal3RModel(config)


class RandomTraining:
    """One process that trains: its engine, optimizer and losses are those of `scal3r_train.train`."""

    def __init__(self, model: Scal3RModel, precision: Literal["fp32", "bf16"]) -> None:
        """Take over a model; it is trained with the losses' default weights, which are the paper's."""
        self.process = current_process()
        self.engine = build_engine(ParallelSettings(engine="single", precision=precision), self.process, 1)
        self._groups = ContextGroups(self.engine.timeout)
        self.engine.prepare(model.train(), partial(build_optimizer, settings=OptimSettings()), 1.0)
        self._profiler = StepProfiler(self.engine)
        self._losses = ObjectiveSettings()

    def batch(self, size: StepSize) -> SequenceBatch:
        """Return a batch as the trainer's loader hands it over: pinned where there is a device to copy it to."""
        pins = self.process.device.type == "cuda"
        return next(iter(DataLoader([random_batch(size)], batch_size=None, pin_memory=pins)))

    def step(self, size: StepSize, batch: SequenceBatch) -> None:
        """Make one optimizer step.

        Raises:
            AssertionError: the step was skipped, since its loss or gradient is not finite.
        """
        micro_steps = [MicroStep(separate_plan(size, 1), batch)]
        with self._profiler.step(is_logged=False):
            result = train_step(self.engine, self._groups, micro_steps, self._losses, self._profiler)
        assert result.is_applied, f"the step was skipped: {result.logs}"

    def forget_step(self) -> None:
        """Drop what a step that failed has left behind."""
        self.engine.optimizer.zero_grad(set_to_none=True)
