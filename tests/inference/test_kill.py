"""A run that was killed goes on where it was, and ends with the same scene."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scal3r_train.scene.scene import Scene, load_scene
from tests.forking import ForkServer
from tests.inference.test_ranks import CHUNKS, SETTINGS, assert_same_scene

KILLED_RUN = """
import os, signal, sys
from scal3r_train.cli import main
from scal3r_train.inference import prediction
from scal3r_train.inference.network import chunk_runner
save, forward, forwards = prediction.PredictionFolder.save, chunk_runner.ChunkRunner.forward_segment, []
def save_then_die(self, number, found):
    save(self, number, found)
    if number == int(os.environ["DIE_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)
def counted(self, *arguments, **options):
    forwards.append(1)
    return forward(self, *arguments, **options)
prediction.PredictionFolder.save = save_then_die
chunk_runner.ChunkRunner.forward_segment = counted
code = main(sys.argv[1:])
print("segment forwards", len(forwards))
sys.exit(code)
"""


Reconstruct = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def reconstruct(forks: ForkServer, image_folder: Path, checkpoint: Path) -> Reconstruct:
    """Return a function that reconstructs in a process of its own, which may die on the way."""

    def run(output: Path, kind: str, die_after: int = -1) -> subprocess.CompletedProcess[str]:
        arguments = [
            *("reconstruct", image_folder, output, *SETTINGS, *CHUNKS[5]),
            *(f"model.checkpoint={checkpoint}", f"schedule.state={kind}"),
        ]
        return forks.run("-c", KILLED_RUN, *arguments, environment={"DIE_AFTER": str(die_after)})

    return run


@pytest.fixture(scope="module")
def whole(reconstruct: Reconstruct, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The scene of a run that nobody kills; the stores give the same."""
    folder = tmp_path_factory.mktemp("whole") / "scene"
    finished = reconstruct(folder, "disk")
    assert finished.returncode == 0, finished.stderr
    return load_scene(folder)


@pytest.mark.parametrize("kind", ["disk", "recompute"])
def test_killed_and_restarted(kind: str, reconstruct: Reconstruct, whole: Scene, tmp_path: Path) -> None:
    killed = reconstruct(tmp_path / "killed", kind, die_after=1)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    timings = tmp_path / "killed.partial" / "work" / "timings.json"
    assert set(json.loads(timings.read_text())) == {"predict"}, "the first stage"
    timings.write_text('{"predict": 1000.0}')
    again = reconstruct(tmp_path / "killed", kind)
    assert again.returncode == 0, again.stderr
    # 5 chunks, 2 memories; the last three predictions were missing, their states on disk or gone.
    assert f"segment forwards {0 if kind == 'disk' else 3 * 2}" in again.stdout
    other = load_scene(tmp_path / "killed")
    if kind == "disk":  # what is read is what was written: the same operations on the same numbers
        assert torch.equal(whole.world_from_cam, other.world_from_cam)
        assert (whole.positions == other.positions).all()
    assert_same_scene(other, whole)  # states that are computed again may differ in the last digits
    assert other.info.timings_s["predict"] > 1000 > whole.info.timings_s["predict"], "of both starts"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed"]
