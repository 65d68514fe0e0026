"""What a run reports: a progress bar, lines on the console and metrics with stable keys (docs/training.md).

The numbers come from `step_profiler.py`, `step.py` and `training/validation.py`; they go to the sinks of `sinks.py`.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scal3r_train.config import StrictModel
from scal3r_train.training.monitoring.sinks import (
    JsonLines,
    Sink,
    TensorBoard,
    Wandb,
    WandbMode,
    begin_anew,
    refusals_named,
    tensorboard_tracker,
    wandb_tracker,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class TelemetrySettings(StrictModel):
    """The `telemetry` section of a training recipe; metrics.jsonl is always written."""

    log_every: int = Field(default=10, ge=1, description="steps between lines of metrics.jsonl [steps]")
    wandb: WandbMode = Field(
        default="off",
        description="also log to Weights & Biases; auto: online if logged in and its server answers, else offline",
    )
    project: str = Field(default="scal3r", description="project at Weights & Biases")
    tensorboard: bool = Field(default=False, description="also write events for TensorBoard")


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
        self.settings = settings
        self.is_main = accelerator.is_main_process
        self._sinks: list[Sink] = []
        if not self.is_main:
            return
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[summary]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            f"train {name}", total=num_steps, completed=first_step, summary=""
        )
        self._sinks.append(JsonLines(folder, first_step))
        self._start_trackers(accelerator, folder, first_step, name)

    def _start_trackers(self, accelerator: Accelerator, folder: Path, first_step: int, name: str) -> None:
        settings, mode = self.settings, None
        accelerator.log_with = []
        if settings.tensorboard:
            accelerator.log_with.append(tensorboard_tracker(folder, first_step))
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
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the progress bar away and close the sinks."""
        if self.is_main:
            self._progress.stop()
        for sink in self._sinks:
            sink.close(is_success=error is None)

    def is_due(self, step: int) -> bool:
        """Return whether the metrics of a step are recorded; the same on all ranks."""
        return step % self.settings.log_every == 0

    def log(self, step: int, values: dict[str, float], *, always: bool = False) -> None:
        """Record the metrics of a step if it is due."""
        if not self.is_main:
            return
        summary = " ".join(
            f"{key} {values[key]:.4g}" for key in ("loss", "val/rotation_deg") if key in values
        )
        self._progress.update(self._task, completed=step, summary=summary)
        if always or self.is_due(step):
            for sink in self._sinks:
                sink.log(step, values)

    def say(self, message: str) -> None:
        """Print one line above the progress bar, on the main process."""
        if self.is_main:
            self._progress.console.print(message, highlight=False, soft_wrap=True)
