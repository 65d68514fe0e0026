"""Several processes write the scene that one process writes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_train.config import load_config
from scal3r_train.data.index.index import write_index
from scal3r_train.data.index.source import record_from_images
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene, load_scene
from tests.forking import ForkServer
from tests.inference.conftest import NUM_FRAMES
from tests.tolerance import rounding

pytestmark = pytest.mark.exactness

# Every pixel gives a point: which point of a voxel wins may hang on a rounding error.
SETTINGS = [
    "input.resize.size=42",
    "export.voxel_size=0",
    "export.min_confidence_ratio=0",
    "export.report=false",
]
CHUNKS = {
    5: ["schedule.chunk_size=4", "schedule.overlap=2", "alignment.metric.distance=[1, 9, 250.0]"],
    2: ["schedule.chunk_size=7", "schedule.overlap=3"],
}
# The longest sums are over the pixels of a chunk, where its scale is found and its neighbours are joined.
TOLERANCE = rounding(torch.float32, 7 * 42 * 42)


def assert_same_scene(scene: Scene, expected: Scene) -> None:
    extent = expected.world_from_cam[:, :, 3].norm(dim=-1).max()
    assert extent > 1e-3
    torch.testing.assert_close(
        scene.world_from_cam[:, :, 3] / extent,
        expected.world_from_cam[:, :, 3] / extent,
        rtol=0,
        atol=TOLERANCE,
    )
    torch.testing.assert_close(
        scene.world_from_cam[:, :, :3], expected.world_from_cam[:, :, :3], rtol=0, atol=TOLERANCE
    )
    torch.testing.assert_close(scene.intrinsics, expected.intrinsics, rtol=TOLERANCE, atol=0)
    reach = np.abs(expected.positions).max()
    np.testing.assert_allclose(scene.positions / reach, expected.positions / reach, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(scene.colours, expected.colours)


@pytest.mark.parametrize(("num_processes", "num_chunks"), [(2, 5), (3, 2)])
def test_processes_agree_with_one(
    num_processes: int,
    num_chunks: int,
    forks: ForkServer,
    image_folder: Path,
    checkpoint: Path,
    tiny_model: Scal3RModel,
    tmp_path: Path,
) -> None:
    """Unequal shares (3 + 2 chunks); more processes than chunks (1 + 1 + 0)."""
    settings = [*SETTINGS, *CHUNKS[num_chunks]]
    recipe = load_config(ReconstructionRecipe, None, settings)
    expected = reconstruct(image_folder, tiny_model, recipe, tmp_path / "one")
    assert expected is not None
    assert len(expected.info.chunks) == num_chunks
    command = ("-m", "scal3r_train.cli", "reconstruct", image_folder, tmp_path / "many")
    done = forks.run_ranks(num_processes, *command, f"model.checkpoint={checkpoint}", *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"{NUM_FRAMES} frames in {num_chunks} chunks") == 1
    scene = load_scene(tmp_path / "many")
    assert scene.info.num_processes == num_processes
    assert scene.info.seams[0]["num_points"] == expected.info.seams[0]["num_points"]
    assert (scene.info.scale is None) == (expected.info.scale is None) == (num_chunks == 2)
    assert_same_scene(scene, expected)


def test_an_error_on_one_process_ends_all_with_one_line(
    forks: ForkServer, image_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Only the second process reads the last image."""
    (tmp_path / "in").mkdir()
    for path in image_folder.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    write_index(tmp_path / "in" / "i.parquet", [record_from_images(tmp_path / "in")])
    last = tmp_path / "in" / f"{NUM_FRAMES - 1:03d}.png"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    settings = [*SETTINGS, *CHUNKS[5]]
    command = (
        "-m",
        "scal3r_train.cli",
        "reconstruct",
        f"{tmp_path / 'in' / 'i.parquet'}#in",
        tmp_path / "out",
    )
    done = forks.run_ranks(2, *command, f"model.checkpoint={checkpoint}", *settings)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "scal3r: error:" in line]
    assert len(lines) == 1, done.stderr[-3000:]
    assert "010.png cannot be read" in lines[0]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
