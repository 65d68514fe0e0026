"""Where metrics go on the main process: metrics.jsonl always, TensorBoard when asked for (wandb: sinks.py).

Metrics to Weights & Biases: online where that will work, offline where it will not, the same run after a resume.
"""

from __future__ import annotations

import json
import math
import netrc
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from scal3r_train.config import UserError, load_mapping, write_text_atomically


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


WandbMode = Literal["auto", "off", "offline", "online"]

PATIENCE_S = 1.0
DEFAULT_PORTS = {"http": 80, "https": 443}


class Wandb:
    """One wandb run per output folder; its id is kept in `folder`/wandb_id."""

    def __init__(
        self, mode: Literal["auto", "offline", "online"], project: str, folder: Path, name: str
    ) -> None:
        """Start the run, or go on with the one whose id is in the folder.

        Raises:
            UserError: the package is not installed, or wandb refuses.
        """
        self._wandb = _import_wandb()
        self.mode = self._settled_mode(mode)
        recipe = folder / "recipe.yaml"
        try:
            self._run = self._wandb.init(
                project=project,
                name=name,
                id=_run_id(folder),
                dir=str(folder),
                mode=self.mode,
                resume="allow"
                if self.mode == "online"
                else None,  # offline, wandb warns that it ignores this
                config=load_mapping(recipe) if recipe.is_file() else None,
                settings=self._wandb.Settings(silent=True, console="off"),
            )
        except self._wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"telemetry.wandb={mode}: wandb refuses ({reason}); telemetry.wandb=offline works"
            ) from None
        # A resumed run logs some steps again. As an axis of its own, unlike wandb's, the step may go back.
        self._run.define_metric("*", step_metric="step")

    @property
    def place(self) -> str:
        """Where the run can be seen: its address, or the folder that `wandb sync` takes."""
        return str(self._run.url) if self.mode == "online" else str(Path(self._run.dir).parent)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._run.log({**values, "step": step})

    def close(self, *, is_success: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if is_success else 1)

    def _settled_mode(self, mode: Literal["auto", "offline", "online"]) -> Literal["offline", "online"]:
        """Return how to run: by itself online only with a login, and only if the server answers within a second."""
        if mode != "auto":
            return mode
        settings = self._wandb.setup().settings  # wandb's own reading of environment and settings files
        address = urlsplit(str(settings.base_url))
        if not settings.api_key and not has_netrc_login(address.hostname or ""):
            return "offline"
        port = address.port or DEFAULT_PORTS[address.scheme]
        return "online" if answers(address.hostname or "", port, PATIENCE_S) else "offline"


def begin_anew(folder: Path) -> None:
    """Forget the wandb run of a folder whose training starts again from step 0."""
    (folder / "wandb_id").unlink(missing_ok=True)


def answers(host: str, port: int, seconds: float) -> bool:
    """Return whether a connection opens within `seconds`, which include looking up the host's name."""
    is_open = threading.Event()

    def connect() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=seconds):
            is_open.set()

    # A daemon: a name server that never answers holds neither the training nor its end.
    threading.Thread(target=connect, daemon=True).start()
    return is_open.wait(seconds)


def has_netrc_login(host: str, path: Path | None = None) -> bool:
    """Return whether ~/.netrc, or the file `path`, holds a password for the host."""
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    if not path.is_file():
        write_text_atomically(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()


def _import_wandb() -> Any:
    try:
        import wandb  # noqa: PLC0415  imported only by runs that ask for it
    except ImportError:
        raise UserError(
            "telemetry.wandb needs the package wandb; pip install wandb or set telemetry.wandb=off"
        ) from None
    return wandb
