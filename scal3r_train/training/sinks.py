"""Where metrics go on the main process: metrics.jsonl always, TensorBoard when asked for (wandb: wandb_sink.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

from scal3r_train.config import UserError


class Sink(Protocol):
    """Something that takes metrics."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of a step."""

    def close(self, *, is_success: bool) -> None:
        """Take no more."""


class JsonLines:
    """metrics.jsonl: one line per logged step or validation; values that are not finite are null."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Append to the file, dropping the lines that the run will write again."""
        self._path = folder / "metrics.jsonl"
        _forget_lines(self._path, first_step)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        line = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")

    def close(self, *, is_success: bool) -> None:
        """Do nothing: every line is already on disk."""


class TensorBoard:
    """Scalars for TensorBoard below `folder`/tensorboard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Append events, hiding those that the run will write again.

        Raises:
            UserError: the package is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  imported only when asked for
        except ImportError:
            raise UserError(
                "telemetry.tensorboard needs the package tensorboard; pip install tensorboard or set "
                "telemetry.tensorboard=false"
            ) from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add every value as a scalar."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self, *, is_success: bool) -> None:
        """Write what is buffered."""
        self._writer.close()


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
