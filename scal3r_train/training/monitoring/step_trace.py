"""What the processor and the device do in chosen steps, as files that chrome://tracing and ui.perfetto.dev open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch.profiler import ProfilerActivity, profile

from scal3r_train.config import StrictModel, UserError, atomic_output

FOLDER = "profile"


class TraceSettings(StrictModel):
    """The `profile` of the `telemetry` section."""

    first: int = Field(
        default=10,
        ge=1,
        description="number of the first step that is traced, counted from the run's start [step]",
    )
    steps: int = Field(
        default=3,
        ge=1,
        le=100,
        description="steps in a row that are traced; a file grows by megabytes with each [steps]",
    )
    memory: bool = Field(default=False, description="also note every allocation")
    shapes: bool = Field(default=False, description="also note the shapes of the operators' inputs")


class StepTrace:
    """Traces some steps of one rank with torch.profiler; without settings it does nothing."""

    def __init__(self, settings: TraceSettings | None, folder: Path, rank: int, device: torch.device) -> None:
        """Trace into `folder`/profile."""
        self._settings, self._folder, self._rank = settings, folder / FOLDER, rank
        self._activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)
        self._profile: profile | None = None
        self._first = self._last = 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Trace the body if it is one of the chosen steps; write the file after the last of them.

        Raises:
            UserError: the file cannot be written.
        """
        settings = self._settings
        if settings is None or not settings.first <= step < settings.first + settings.steps:
            yield
            return
        if self._profile is None:
            self._profile = profile(
                activities=self._activities,
                record_shapes=settings.shapes,
                profile_memory=settings.memory,
            )
            self._profile.start()
            self._first = step
        self._last = step
        with torch.profiler.record_function(f"step {step}"):
            yield
        if step == settings.first + settings.steps - 1:
            self.close()

    def close(self) -> None:
        """Write what has been traced, if anything is not written yet.

        Raises:
            UserError: the file cannot be written.
        """
        if self._profile is None:
            return
        running, self._profile = self._profile, None
        running.stop()
        name = f"steps_{self._first:08d}-{self._last:08d}_rank_{self._rank:05d}.json.gz"
        try:
            with atomic_output(self._folder / name) as partial:
                running.export_chrome_trace(str(partial))
        except OSError as error:
            raise UserError(f"telemetry.profile: {self._folder / name} cannot be written: {error}") from None
