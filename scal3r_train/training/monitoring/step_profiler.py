"""What is measured of training steps. Always: where the time goes and how much work was done. In logged steps also:
what the memories did and the errors on the training batch. Nothing of it changes a step.

Where the time of training steps goes: phases that follow each other without gap, so that their shares sum to 1.

On CUDA the marks between phases are events on the stream, read when they have long passed: no step waits for the
clock. What is measured there is the device's time: a phase that the device spends waiting for the host counts as
long as the device waits. On CPU the marks are readings of the wall clock.

How much memory the ranks use.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import psutil
import torch

from scal3r_train.data.sampling.plan import StepPlan
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.parallel.collectives import maximum_over_world
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.monitoring.amu_probe import memory_keys, watched_memories
from scal3r_train.training.monitoring.chunk_errors import ERROR_NAMES, RealChunks, chunk_errors
from scal3r_train.training.monitoring.flop_count import StepFlops, peak_flops, step_work
from scal3r_train.training.monitoring.product_flops import HEADS
from scal3r_train.training.monitoring.world_means import WorldMeans

PHASES = ("data", "forward", "sync", "backward", "optimizer", "other")

Span = tuple[str, Any]  # a phase and the mark at which it begins


class Timer(Protocol):
    """Marks in time."""

    def mark(self) -> Any:
        """Return a mark of now, or of when the device comes to it."""

    def is_past(self, mark: Any, *, wait: bool) -> bool:
        """Return whether the mark can be read; with `wait` it can after this call."""

    def seconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks that are past."""


class WallTimer:
    """The host's clock."""

    def mark(self) -> float:
        """Return now in seconds."""
        return time.perf_counter()

    def is_past(self, mark: float, *, wait: bool) -> bool:
        """Return True: every mark is."""
        return True

    def seconds(self, first: float, second: float) -> float:
        """Return the difference."""
        return second - first


class CudaTimer:
    """Events on the current stream of the device."""

    def mark(self) -> torch.cuda.Event:
        """Return an event that the device will pass after all work given to it so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def is_past(self, mark: torch.cuda.Event, *, wait: bool) -> bool:
        """Return whether the device has passed the event."""
        if wait:
            mark.synchronize()
        return mark.query()

    def seconds(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Return the device's time between two events."""
        return first.elapsed_time(second) / 1000


class StepClock:
    """Adds up the time of each phase over the steps since it was last asked."""

    def __init__(self, timer: Timer) -> None:
        """Measure with `timer`."""
        self._timer = timer
        self._open: list[str] = []
        self._spans: list[Span] = []
        self._pending: list[list[Span]] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure one step; what lies in no phase of its own is `other`. A step that fails leaves no time behind."""
        self._open, self._spans = [], []
        with self.phase("other"):
            yield
        self._spans.append(("", self._timer.mark()))
        self._pending.append(self._spans)
        self._add_up(wait=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as `name`, and not as the phase around it."""
        assert name in PHASES
        self._open.append(name)
        self._spans.append((name, self._timer.mark()))
        try:
            yield
        finally:
            self._open.pop()
            if self._open:
                self._spans.append((self._open[-1], self._timer.mark()))

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call; waits for the device to finish the last step."""
        self._add_up(wait=True)
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _add_up(self, *, wait: bool) -> None:
        while self._pending and self._timer.is_past(self._pending[0][-1][1], wait=wait):
            spans = self._pending.pop(0)
            for (name, begin), (_, end) in zip(spans[:-1], spans[1:], strict=True):
                self._seconds[name] += self._timer.seconds(begin, end)


GIB = 2**30


def memory_use(device: torch.device) -> dict[str, float]:
    """Return the most of any rank in GiB: resident set now and, on CUDA, the allocator's peaks since the start.

    All ranks call this.
    """
    values = {"memory/resident_gib": float(psutil.Process().memory_info().rss)}
    if device.type == "cuda":
        values["memory/allocated_gib"] = float(torch.cuda.max_memory_allocated(device))
        values["memory/reserved_gib"] = float(torch.cuda.max_memory_reserved(device))
    most = maximum_over_world(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return {key: value / GIB for key, value in zip(values, most.tolist(), strict=True)}


SECONDS = "seconds of the window"


class StepProfiler:
    """Measures the steps of a run; every rank has one and calls it alike."""

    def __init__(self, engine: Engine, heads: Iterable[str] = HEADS) -> None:
        """Measure steps, which run these heads, of an engine that is prepared."""
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
        self._flops = StepFlops(
            self._config,
            [name for name, value in parameters if value.requires_grad],
            heads,
            engine.bare_model.adapter_rank,
        )

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
        """Measure the memories of a forward that is shared by the `num_ranks` of a context group."""
        if self._means is None:
            yield
        else:
            with watched_memories(self._engine.bare_model, self._means, num_ranks):
                yield

    @torch.no_grad()
    def saw_output(self, output: Scal3ROutput, batch: SequenceBatch, chunks: RealChunks) -> None:
        """Note the errors on the given chunks of a batch."""
        if self._means is None:
            return
        with self._clock.phase("other"):
            for row in chunk_errors(output, batch, chunks, "train"):
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
