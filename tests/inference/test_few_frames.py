"""One frame, two frames, equal frames, and videos reconstruct like any other input, or end with one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_train.config import load_config
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene
from tests.data.io.test_video_frames import encode
from tests.inference.input.test_video import put

SETTINGS = ["schedule.chunk_size=4", "schedule.overlap=2", "input.resize.size=42", "export.report=false"]


def run(source: Path, model: Scal3RModel, output: Path, *overrides: str) -> Scene:
    scene = reconstruct(
        source, model, load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides]), output
    )
    assert scene is not None
    return scene


@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("equal", [False, True])
def test_few_or_equal_frames(tiny_model: Scal3RModel, tmp_path: Path, num: int, equal: bool) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(num):
        put(folder / f"{number}.png")
        if equal:
            (folder / f"{number}.png").write_bytes((folder / "0.png").read_bytes())
    scene = run(folder, tiny_model, tmp_path / "out")
    assert scene.info.num_frames == num == len(scene.world_from_cam)
    assert torch.isfinite(scene.world_from_cam).all()
    torch.testing.assert_close(scene.world_from_cam[0], torch.eye(3, 4, dtype=torch.float64))
    assert np.isfinite(scene.positions).all() and len(scene.positions)


def test_times_of_a_video_reach_the_trajectory(tiny_model: Scal3RModel, tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", "libx264", [7, 11, 20, 21, 50, 90], {"crf": "10"})
    scene = run(tmp_path / "a.mp4", tiny_model, tmp_path / "out", "input.stop_s=0.5")
    rows = np.loadtxt(tmp_path / "out/trajectory.tum")
    np.testing.assert_allclose(rows[:, 0], [0, 0.04, 0.13, 0.14, 0.43], atol=1e-6)
    assert [frame.name for frame in scene.frames] == [f"a.mp4#{number}" for number in range(5)]
