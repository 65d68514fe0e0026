"""What the tests of streaming share: settings, images put into a folder, a stream run to its end."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from scal3r_train.config import load_config
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.inference.streaming.reconstruct_stream import reconstruct_stream
from scal3r_train.inference.streaming.stream_end import StreamEnd
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene

SETTINGS = [
    "schedule.chunk_size=4",
    "schedule.overlap=2",
    "input.resize.size=42",
    "follow.poll_s=0.01",
    "loop_closure.enabled=false",
    "export.report=false",
]
CHUNKS = ((0, 4), (2, 6), (4, 8), (6, 10), (8, 11))
PATIENT = "follow.idle_s=60"

RunStream = Callable[..., Scene]


def recipe_of(*overrides: str) -> ReconstructionRecipe:
    return load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides])


def put(source: Path, folder: Path, frames: range | None = None, *, stop: bool = True) -> None:
    """Put images into a folder, and then the file that ends it."""
    folder.mkdir(exist_ok=True)
    images = sorted(source.iterdir())
    for path in images if frames is None else images[frames.start : frames.stop]:
        shutil.copy(path, folder)
    if stop:
        (folder / "STOP").touch()


def assert_same(one: Scene, other: Scene) -> None:
    """To rounding: the last chunk's frames are placed in other groups."""
    torch.testing.assert_close(one.world_from_cam, other.world_from_cam, rtol=0, atol=1e-13)
    torch.testing.assert_close(one.intrinsics, other.intrinsics, rtol=1e-14, atol=0)
    np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(one.colours, other.colours)
    assert one.frames == other.frames
    same = ("chunks", "provided_frames", "world_from_chunk", "seams", "breaks", "num_points", "voxel_size")
    assert {name: vars(one.info)[name] for name in same} == {name: vars(other.info)[name] for name in same}


def stream_runner(folder: Path, output: Path, tiny_model: Scal3RModel) -> RunStream:
    """Return a function that reconstructs the stream into `output` with overrides."""

    def call(
        *overrides: str,
        model: Scal3RModel = tiny_model,
        end_check: Callable[[], StreamEnd | None] = lambda: None,
    ) -> Scene:
        return reconstruct_stream(folder, model, recipe_of(*overrides), output, "abc", end_check)

    return call
