"""TensorBoard and wandb: what arrives there, after a resume too, and how wandb=auto decides."""

import builtins
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.parallel.accelerator import build_accelerator
from scal3r_train.training.monitoring import sinks
from scal3r_train.training.monitoring.sinks import (
    TensorBoard,
    Wandb,
    answers,
    begin_anew,
    has_netrc_login,
    refusals_named,
    tensorboard_tracker,
    wandb_tracker,
)
from scal3r_train.training.monitoring.telemetry import Telemetry, TelemetrySettings

PICTURE = np.arange(144, dtype=np.uint8).reshape(8, 6, 3)


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step, steps, value in ((0, (1, 2, 3, 4), 1.0), (2, (3, 4, 5), 7.0)):
        tracker = tensorboard_tracker(tmp_path, first_step, "town/1")
        tracker.start()
        sink = TensorBoard(tracker)
        for step in steps:
            sink.log(step, {"amu/0/gate": value, "loss": float("nan")})
        sink.show(steps[-1], {"window_0": PICTURE})
        sink.close(is_success=True)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "town/1")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["amu/0/gate", "loss"]
    images = events.Images("val/window_0")
    assert [image.step for image in images] == [5], "that of step 4 was drawn again"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(images[0].encoded_image_string))), PICTURE)
    assert [(event.step, event.value) for event in events.Scalars("amu/0/gate")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 7.0),
        (4, 7.0),
        (5, 7.0),
    ]


@pytest.mark.parametrize(
    ("settings", "package"),
    [({"tensorboard": True}, "tensorboard"), ({"wandb": "offline"}, "wandb"), ({"wandb": "auto"}, "wandb")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], package: str
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package or name == f"torch.utils.{package}":
            raise ImportError(name)
        return original(name, *rest, **kwargs)

    accelerator = build_accelerator("single", 1)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=f"needs the package {package}; pip install {package} or set"):
        Telemetry(TelemetrySettings(**settings), tmp_path, accelerator, num_steps=1, first_step=0, name="t")


WANDB_RUNS = """
import random
import sys
import numpy as np
from pathlib import Path
from scal3r_train.parallel.accelerator import build_accelerator
from scal3r_train.training.monitoring.telemetry import Telemetry, TelemetrySettings
for first_step in (0, 2, 0):
    accelerator = build_accelerator("single", 1)
    settings = TelemetrySettings(wandb="auto", log_every=1)
    with Telemetry(settings, Path(sys.argv[1]), accelerator, num_steps=9, first_step=first_step, name="t") as run:
        run.log(first_step + 1, {"loss": 0.5})
        before = random.getstate(), np.random.get_state()[1].tobytes()
        run.show(first_step + 1, {"window_0": np.zeros((8, 6, 3), np.uint8)})
        assert before == (random.getstate(), np.random.get_state()[1].tobytes()), "it is part of a checkpoint"
    print((Path(sys.argv[1]) / "wandb_id").read_text())
"""


def test_a_resumed_run_is_the_same_wandb_run(tmp_path: Path) -> None:
    """Without a login it is an offline one, and nothing is asked for; a run begun anew is another."""
    pytest.importorskip("wandb")
    home = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", WANDB_RUNS, str(tmp_path)],
        env=home | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    first, resumed, anew = done.stdout.split()
    assert first == resumed != anew
    # offline-run-TIME-ID; two runs of one id within one second are told apart by a further -1.
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert {folder.split("-")[3] for folder in folders} == {first, anew}
    assert done.stderr.splitlines()[0].startswith("wandb offline: ")
    assert all(line.startswith("wandb offline: ") for line in done.stderr.splitlines())


class FakeWandb:
    """Stands for the package: remembers how it was started."""

    Error = RuntimeError
    Settings = staticmethod(dict)
    Image = staticmethod(lambda picture: ("image", picture.shape))

    def __init__(self, api_key: str | None, base_url: str) -> None:
        self.api_key, self.base_url = api_key, base_url
        self.started: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.settings = self

    def setup(self) -> "FakeWandb":
        return self

    def init(self, **arguments: Any) -> "FakeWandb":
        self.started = arguments
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


@pytest.fixture
def server() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def start(mode: Any, folder: Path) -> Wandb:
    """Start a run as Telemetry does."""
    accelerator = build_accelerator("single", 1)
    tracker, settled = wandb_tracker(mode, "project", folder, "name")
    accelerator.log_with = [tracker]
    with refusals_named(mode):
        accelerator.init_trackers("project")
    return Wandb(accelerator.get_tracker("wandb"), settled)


def mode_of(monkeypatch: pytest.MonkeyPatch, folder: Path, mode: Any, key: str | None, url: str) -> str:
    fake = FakeWandb(key, url)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(sinks, "has_netrc_login", lambda host: False)
    start(mode, folder)
    return fake.started["mode"]


def test_auto_is_online_only_with_login_and_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: int
) -> None:
    here = f"http://127.0.0.1:{server}"
    assert mode_of(monkeypatch, tmp_path, "auto", "key", here) == "online"
    assert mode_of(monkeypatch, tmp_path, "auto", None, here) == "offline"
    assert mode_of(monkeypatch, tmp_path, "auto", "key", "http://127.0.0.1:1") == "offline"
    assert mode_of(monkeypatch, tmp_path, "auto", "key", "https://nowhere.invalid") == "offline"
    assert mode_of(monkeypatch, tmp_path, "online", None, "https://nowhere.invalid") == "online"
    assert mode_of(monkeypatch, tmp_path, "offline", "key", here) == "offline"


def test_a_step_may_be_logged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb drops values whose own step goes back: ours is a value like others."""
    fake = FakeWandb(None, "")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = start("offline", tmp_path)
    sink.log(3, {"loss": 1.0})
    sink.log(2, {"loss": 2.0})
    sink.show(2, {"window_0": PICTURE})
    assert fake.logged == [
        {"loss": 1.0, "step": 3},
        {"loss": 2.0, "step": 2},
        {"val/window_0": ("image", (8, 6, 3)), "step": 2},
    ]


def test_a_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb(None, "")
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def refuse(**_: Any) -> Any:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(fake, "init", refuse)
    with pytest.raises(UserError, match=r"telemetry\.wandb=online: wandb refuses \(no way\)"):
        start("online", tmp_path)


def test_waiting_for_a_server_ends(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that never answers: the look-up itself would block."""
    assert answers("127.0.0.1", server, 5.0)
    from threading import Event

    never = Event()

    def look_up(*_: object, **__: object) -> None:
        never.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", look_up)
    assert not answers("blocked", 443, 0.05)
    never.set()


def test_logins_of_netrc(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine api.example.org\n  login user\n  password secret\n")
    assert has_netrc_login("api.example.org", path)
    assert not has_netrc_login("example.org", path)
    assert not has_netrc_login("api.example.org", tmp_path / "absent")
    path.write_text("machine\nlogin login\n")
    assert not has_netrc_login("api.example.org", path)


def test_beginning_anew_needs_no_earlier_run(tmp_path: Path) -> None:
    begin_anew(tmp_path)
