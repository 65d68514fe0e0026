"""Where metrics go on the main process: metrics.jsonl always, TensorBoard and Weights & Biases when asked for.

The last two are Accelerate's trackers. wandb is online where that will work, offline where it will not, and the same
run after a resume.
"""

from __future__ import annotations

import json
import math
import netrc
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from scal3r_train.config import UserError, atomic_output, load_mapping, write_text_atomically, writing
from scal3r_train.text_file import parse_json

if TYPE_CHECKING:  # recipes hold settings that lead here
    from accelerate.tracking import GeneralTracker


METRICS_FILE, PICTURES_FOLDER = "metrics.jsonl", "pictures"
Pictures = Mapping[str, np.ndarray]  # [height, width, 3] uint8 by window


class Sink(Protocol):
    """Something that takes metrics."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of a step."""

    def show(self, step: int, pictures: Pictures) -> None:
        """Take the pictures of a validation."""

    def close(self, *, is_success: bool) -> None:
        """Take no more."""


class JsonLines:
    """metrics.jsonl: one line per logged step or validation; values that are not finite are null."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Append to the file, dropping the lines that the run will write again."""
        self._path = folder / METRICS_FILE
        _forget_lines(self._path, first_step)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        line = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with writing(str(self._path)), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")

    def show(self, step: int, pictures: Pictures) -> None:
        """Do nothing: pictures are no numbers."""

    def close(self, *, is_success: bool) -> None:
        """Do nothing: every line is already on disk."""


class PictureFiles:
    """PNG files below `folder`/pictures, named by step and window."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Tell `say` what cannot be written: that ends no run."""
        self._folder, self._say = folder / PICTURES_FOLDER, say

    def log(self, step: int, values: dict[str, float]) -> None:
        """Do nothing: numbers are no pictures."""

    def show(self, step: int, pictures: Pictures) -> None:
        """Write a file for each."""
        try:
            for name, picture in pictures.items():
                with atomic_output(self._folder / f"step_{step:08d}_{name}.png") as partial:
                    Image.fromarray(picture).save(partial)
        except OSError as error:
            self._say(f"pictures cannot be written: {error}")

    def close(self, *, is_success: bool) -> None:
        """Do nothing: every file is already on disk."""


class TensorBoard:
    """Scalars and pictures for TensorBoard."""

    def __init__(self, tracker: GeneralTracker) -> None:
        """Take Accelerate's tracker, started."""
        self._tracker: Any = tracker

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add every value as a scalar."""
        self._tracker.log(values, step)

    def show(self, step: int, pictures: Pictures) -> None:
        """Add every picture as an image."""
        for name, picture in pictures.items():
            self._tracker.writer.add_image(f"val/{name}", picture, step, dataformats="HWC")

    def close(self, *, is_success: bool) -> None:
        """Write what is buffered."""
        self._tracker.finish()


def tensorboard_tracker(folder: Path, first_step: int, name: str) -> GeneralTracker:
    """Return Accelerate's tracker for TensorBoard, below `folder`/tensorboard in a run called `name`.

    It appends events, hiding those that the run will write again.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401, PLC0415  imported only when asked for
    except ImportError:
        raise UserError(
            "telemetry.tensorboard needs the package tensorboard; pip install tensorboard or set "
            "telemetry.tensorboard=false"
        ) from None
    from accelerate.tracking import TensorBoardTracker  # noqa: PLC0415

    return TensorBoardTracker(name, folder / "tensorboard", purge_step=first_step + 1)


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
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


WandbMode = Literal["auto", "off", "offline", "online"]

PATIENCE_S = 1.0
DEFAULT_PORTS = {"http": 80, "https": 443}


class Wandb:
    """One wandb run per output folder; its id is kept in `folder`/wandb_id."""

    def __init__(self, tracker: GeneralTracker, mode: Literal["offline", "online"]) -> None:
        """Take Accelerate's tracker, started in that mode."""
        self.mode = mode
        self._run: Any = tracker.tracker
        # A resumed run logs some steps again. As an axis of its own, unlike wandb's, the step may go back.
        self._run.define_metric("*", step_metric="step")

    @property
    def place(self) -> str:
        """Where the run can be seen: its address, or the folder that `wandb sync` takes."""
        return str(self._run.url) if self.mode == "online" else str(Path(self._run.dir).parent)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._run.log({**values, "step": step})

    def show(self, step: int, pictures: Pictures) -> None:
        """Send the pictures."""
        images = {f"val/{name}": _import_wandb().Image(picture) for name, picture in pictures.items()}
        self._run.log({**images, "step": step})

    def close(self, *, is_success: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if is_success else 1)


def wandb_tracker(
    mode: Literal["auto", "offline", "online"], project: str, folder: Path, name: str
) -> tuple[GeneralTracker, Literal["offline", "online"]]:
    """Return Accelerate's tracker for wandb, not started, and the mode that is settled.

    It starts the run, or goes on with the one whose id is in the folder.

    Raises:
        UserError: the package is not installed.
    """
    wandb = _import_wandb()
    from accelerate.tracking import WandBTracker  # noqa: PLC0415

    settled = _settled_mode(wandb, mode)
    recipe = folder / "recipe.yaml"
    tracker = WandBTracker(
        project,
        name=name,
        id=_run_id(folder),
        dir=str(folder),
        mode=settled,
        resume="allow" if settled == "online" else None,  # offline, wandb warns that it ignores this
        config=load_mapping(recipe) if recipe.is_file() else None,
        settings=wandb.Settings(silent=True, console="off"),
    )
    return tracker, settled


@contextmanager
def refusals_named(mode: WandbMode) -> Iterator[None]:
    """Turn what wandb says against a run into a line for the user."""
    if mode == "off":
        yield
        return
    wandb = _import_wandb()
    try:
        yield
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"telemetry.wandb={mode}: wandb refuses ({reason}); telemetry.wandb=offline works"
        ) from None


def _settled_mode(wandb: Any, mode: Literal["auto", "offline", "online"]) -> Literal["offline", "online"]:
    """Return how to run: by itself online only with a login, and only if the server answers within a second."""
    if mode != "auto":
        return mode
    settings = wandb.setup().settings  # wandb's own reading of environment and settings files
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
