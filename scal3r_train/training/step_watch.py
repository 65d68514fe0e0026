"""What is measured of training steps. Always: where the time goes and how much work was done. In logged steps also:
what the memories did and the errors on the training batch. Nothing of it changes a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from scal3r_train.data.plan import StepPlan
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.chunk_errors import ERROR_NAMES, chunk_errors
from scal3r_train.training.memory_probe import memory_keys, watched_memories
from scal3r_train.training.memory_use import memory_use
from scal3r_train.training.step_clock import PHASES, CudaTimer, StepClock, WallTimer
from scal3r_train.training.step_work import StepFlops, peak_flops, step_work
from scal3r_train.training.world_means import WorldMeans

SECONDS = "seconds of the window"


class StepWatch:
    """Measures the steps of a run; every rank has one and calls it alike."""

    def __init__(self, engine: Engine) -> None:
        """Measure steps of an engine that is prepared."""
        self._engine = engine
        self._config = engine.bare_model.config
        self._device = engine.process.device
        self._clock = StepClock(CudaTimer() if self._device.type == "cuda" else WallTimer())
        self._keys = [
            *(f"train/{name}" for name in ERROR_NAMES),
            *memory_keys(engine.bare_model),
            *(f"time/{name}" for name in PHASES),
            SECONDS,
        ]
        self._means: WorldMeans | None = None
        self._plans: list[StepPlan] = []
        self._window: list[StepPlan] = []
        self._peak = peak_flops(self._device)
        parameters = engine.bare_model.named_parameters()
        self._flops = StepFlops(self._config, [name for name, value in parameters if value.requires_grad])

    @contextmanager
    def step(self, *, is_logged: bool) -> Iterator[None]:
        """Measure one step, from waiting for its data to the update."""
        self._means = WorldMeans(self._keys) if is_logged else None
        with self._clock.step():
            yield

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as one of `step_clock.PHASES`."""
        with self._clock.phase(name):
            yield

    def saw_plans(self, plans: Sequence[StepPlan]) -> None:
        """Note what the step computes."""
        self._plans = list(plans)
        self._window += plans

    def waiting(self) -> AbstractContextManager[None]:
        """Return the phase in which a memory waits for the sum of its gradients, in forward and in backward."""
        return self._clock.phase("sync")

    @contextmanager
    def memories(self, num_ranks: int) -> Iterator[None]:
        """Watch the memories of a forward that is shared by the `num_ranks` of a context group."""
        if self._means is None:
            yield
        else:
            with watched_memories(self._engine.bare_model, self._means, num_ranks):
                yield

    @torch.no_grad()
    def saw_output(self, output: Scal3ROutput, batch: SequenceBatch) -> None:
        """Note the errors on the chunks of a batch."""
        if self._means is None:
            return
        with self._clock.phase("other"):
            for row in chunk_errors(output, batch, "train"):
                for key, value in row.items():
                    self._means.add_unless_nan(key, value)

    def values(self) -> dict[str, float]:
        """Return the metrics of the logged step that has just ended; all ranks call this.

        Times and throughput are those of all steps since the last call.
        """
        assert self._means is not None, "the step is not a logged one"
        seconds = self._clock.take()
        total = sum(seconds.values())
        for name, value in seconds.items():
            self._means.add(f"time/{name}", value / total, 1)
        self._means.add(SECONDS, total, 1)
        means = self._means.reduce(self._device)
        window, self._window = self._window, []
        throughput = self._throughput(window, means.pop(SECONDS))
        return means | throughput | memory_use(self._device) | self._plan_values()

    def _throughput(self, plans: Sequence[StepPlan], seconds: float) -> dict[str, float]:
        work = step_work(plans, self._config)
        values = {
            "throughput/frames_per_s": work.num_frames / seconds,
            "throughput/tokens_per_s": work.num_tokens / seconds,
        }
        if self._peak is not None and self._engine.process.is_main:  # one rank counts, one rank writes
            flops = sum(self._flops.of_plan(plan) for plan in plans)
            values["throughput/mfu"] = flops / (seconds * self._peak * self._engine.process.world_size)
        return values

    def _plan_values(self) -> dict[str, float]:
        work = step_work(self._plans, self._config)
        return {
            "plan/groups": work.num_groups,
            "plan/largest_group": work.largest_group,
            "plan/sequences": work.num_sequences,
            "plan/chunks": work.num_chunks,
            "plan/frames": work.num_frames,
            "plan/tokens": work.num_tokens,
        }
