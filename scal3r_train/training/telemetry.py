"""What a run tells: metrics.jsonl with stable keys, a progress bar on the main process, wandb when asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scal3r_train.config import StrictModel, UserError


class TelemetrySettings(StrictModel):
    """The `telemetry` section of a training recipe."""

    log_every: int = Field(default=10, ge=1, description="steps between lines of metrics.jsonl")
    wandb: Literal["off", "offline", "online"] = Field(
        default="off", description="also log to Weights & Biases"
    )
    project: str = "scal3r"


class Telemetry:
    """Writes a run's metrics; on ranks other than the main one it does nothing."""

    def __init__(
        self,
        settings: TelemetrySettings,
        folder: Path,
        *,
        is_main: bool,
        num_steps: int,
        first_step: int,
        name: str,
    ) -> None:
        """Open `folder`/metrics.jsonl for appending, dropping the lines that this run will write again."""
        self.settings = settings
        self.is_main = is_main
        self._path = folder / "metrics.jsonl"
        self._wandb: Any = None
        if not is_main:
            return
        _forget_lines(self._path, first_step)
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
        if settings.wandb != "off":
            self._wandb = _start_wandb(settings, folder, name)

    def __enter__(self) -> Telemetry:
        """Show the progress bar."""
        if self.is_main:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the progress bar away."""
        if self.is_main:
            self._progress.stop()
            if self._wandb is not None:
                self._wandb.finish()

    def log(self, step: int, values: dict[str, float], *, always: bool = False) -> None:
        """Record the metrics of a step if it is due; non-finite values are written as null."""
        if not self.is_main:
            return
        summary = " ".join(
            f"{key} {values[key]:.4g}" for key in ("loss", "val/rotation_deg") if key in values
        )
        self._progress.update(self._task, completed=step, summary=summary)
        if not always and step % self.settings.log_every != 0:
            return
        line = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def say(self, message: str) -> None:
        """Print one line above the progress bar, on the main process."""
        if self.is_main:
            self._progress.console.print(message, highlight=False, soft_wrap=True)


def _forget_lines(path: Path, first_step: int) -> None:
    """Drop what a killed run wrote after its checkpoint of `first_step`; without one (step 0) that is everything."""
    if not path.exists():
        return
    known = path.read_text(encoding="utf-8").splitlines() if first_step > 0 else []
    lines = [line for line in known if _step_of(line) <= first_step]
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; a line cut short by a kill counts as never written."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf


def _start_wandb(settings: TelemetrySettings, folder: Path, name: str) -> Any:
    try:
        import wandb  # noqa: PLC0415  imported only by runs that ask for it
    except ImportError:
        raise UserError(
            "telemetry.wandb needs the package wandb; pip install wandb or set telemetry.wandb=off"
        ) from None
    return wandb.init(
        project=settings.project, name=name, dir=str(folder), mode=settings.wandb, resume="allow"
    )
