"""What a run reports: a line a logged step, a bar on a terminal, pictures, metrics with stable keys (docs/training.md).

The numbers come from `step_profiler.py`, `step.py` and `training/validation.py`; they go to the sinks of `sinks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from scal3r_train.config import StrictModel
from scal3r_train.notes import printable
from scal3r_train.shown_progress import ShownWork
from scal3r_train.training.monitoring.sinks import (
    JsonLines,
    PictureFiles,
    Sink,
    TensorBoard,
    Wandb,
    WandbMode,
    begin_anew,
    refusals_named,
    tensorboard_tracker,
    wandb_tracker,
)
from scal3r_train.training.monitoring.step_line import step_line
from scal3r_train.training.monitoring.step_trace import TraceSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


class TelemetrySettings(StrictModel):
    """The `telemetry` section of a training recipe; metrics.jsonl is always written."""

    log_every: int = Field(
        default=10, ge=1, description="steps between lines of metrics.jsonl, and of the console [steps]"
    )
    wandb: WandbMode = Field(
        default="off",
        description="also log to Weights & Biases; auto: online if logged in and its server answers, else offline",
    )
    project: str = Field(default="scal3r", description="project at Weights & Biases")
    tensorboard: bool = Field(default=False, description="also write events for TensorBoard")
    pictures: int = Field(
        default=1,
        ge=0,
        le=16,
        description="windows drawn in each validation, for output_dir/pictures, TensorBoard and wandb; 0: none "
        "[windows]",
    )
    profile: TraceSettings | None = Field(
        default=None,
        description="trace of some steps with torch.profiler, a file a rank in output_dir/profile; null: none",
    )


class Telemetry:
    """Writes a run's metrics; on ranks other than the main one it does nothing."""

    def __init__(
        self,
        settings: TelemetrySettings,
        folder: Path,
        accelerator: Accelerator,
        *,
        num_steps: int,
        first_step: int,
        name: str,
    ) -> None:
        """Open the sinks; what this run will write again, after `first_step`, is dropped.

        Raises:
            UserError: a package that the settings ask for is missing, or wandb refuses; on the main process only.
        """
        self.settings, name = settings, printable(name)  # of runs, which wandb and others print too
        self.is_main = accelerator.is_main_process
        self._sinks: list[Sink] = []
        if not self.is_main:
            return
        self._num_steps = num_steps
        self._shown = ShownWork(f"train {name}", num_steps, first_step, with_lines=False)
        self._sinks.append(JsonLines(folder, first_step))
        if settings.pictures > 0:
            self._sinks.append(PictureFiles(folder, self.say))
        self._start_trackers(accelerator, folder, first_step, name)

    def _start_trackers(self, accelerator: Accelerator, folder: Path, first_step: int, name: str) -> None:
        settings, mode = self.settings, None
        accelerator.log_with = []
        if settings.tensorboard:
            accelerator.log_with.append(tensorboard_tracker(folder, first_step, name))
        if settings.wandb != "off":
            if first_step == 0:
                begin_anew(folder)
            tracker, mode = wandb_tracker(settings.wandb, settings.project, folder, name)
            accelerator.log_with.append(tracker)
        with refusals_named(settings.wandb):
            accelerator.init_trackers(settings.project)
        if settings.tensorboard:
            self._sinks.append(TensorBoard(accelerator.get_tracker("tensorboard")))
        if mode is not None:
            run = Wandb(accelerator.get_tracker("wandb"), mode)
            self._sinks.append(run)
            self.say(f"wandb {run.mode}: {run.place}")

    def __enter__(self) -> Telemetry:
        """Show the progress bar."""
        if self.is_main:
            self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the progress bar away and close the sinks."""
        if self.is_main:
            self._shown.__exit__(kind, error, trace)
        for sink in self._sinks:
            sink.close(is_success=error is None)

    def is_due(self, step: int) -> bool:
        """Return whether the metrics of a step are recorded; the same on all ranks."""
        return step % self.settings.log_every == 0

    def log(self, step: int, values: dict[str, float], *, always: bool = False) -> None:
        """Record the metrics of a step if it is due, and say those of a training step in a line."""
        if not self.is_main:
            return
        self._shown.reach(step, f"loss {values['loss']:.4g}" if "loss" in values else "")
        if not (always or self.is_due(step)):
            return
        for sink in self._sinks:
            sink.log(step, values)
        if "throughput/frames_per_s" in values:
            self.say(step_line(step, self._num_steps, values, self._shown.pace.left))

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Record pictures [height, width, 3] uint8 of a validation."""
        for sink in self._sinks:
            sink.show(step, pictures)

    def say(self, message: str) -> None:
        """Write one line, above the progress bar if there is one, on the main process."""
        if self.is_main:
            self._shown.say(message)
