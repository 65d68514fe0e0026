"""A disk without room: one line, nothing at the output, and nothing that was finished is lost."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scal3r_train.config import UserError, load_config
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene

SETTINGS = [
    *("schedule.chunk_size=4", "schedule.overlap=2", "schedule.state=disk"),
    *("input.resize.size=42", "export.report=false", "loop_closure.enabled=false"),
]


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Let writes fail in the kernel, as those to a full disk do."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("largest_file", "problem", "forwards_left"),
    [(3000, "cannot take chunk states", True), (100_000, "cannot be written", False)],
)
def test_no_room(
    largest_file: int,
    problem: str,
    forwards_left: bool,
    tiny_model: Scal3RModel,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forwards = []
    forward = ChunkRunner.forward_segment
    monkeypatch.setattr(
        ChunkRunner, "forward_segment", lambda *a, **k: (forwards.append(1), forward(*a, **k))[1]
    )
    recipe = load_config(ReconstructionRecipe, None, SETTINGS)

    def run(output: str) -> Scene:
        forwards.clear()
        scene = reconstruct(image_folder, tiny_model, recipe, tmp_path / output, "abc")
        assert scene is not None
        return scene

    with files_no_larger_than(largest_file), pytest.raises(UserError) as told:
        run("out")
    assert problem in str(told.value)
    assert str(told.value).endswith("make room and run again")
    assert not (tmp_path / "out").exists()
    again = run("out")
    assert bool(forwards) == forwards_left
    assert torch.equal(again.world_from_cam, run("whole").world_from_cam)
