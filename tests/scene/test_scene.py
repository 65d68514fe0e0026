"""Scene folders: read back to the same numbers, refused when damaged, never half there."""

from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from scal3r_train.config import UserError
from scal3r_train.scene.folder import (
    discard_scene_folder,
    partial_folder,
    publish_scene_folder,
    start_scene_folder,
    work_folder,
)
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, SceneFrame, SceneInfo, load_scene, write_depth, write_scene

NUM_FRAMES, NUM_POINTS = 6, 9
SOURCE_FRAMES = np.array([0, 0, 0, 1, 3, 3, 5, 5, 5])
FRAMES = tuple(SceneFrame(name=f"a b/{i}.png", image_hw=(48, 64)) for i in range(NUM_FRAMES))


def random_cameras() -> torch.Tensor:
    rotation = roma.random_rotmat(NUM_FRAMES, dtype=torch.float64)
    return torch.cat([rotation, 100 * torch.randn(NUM_FRAMES, 3, 1, dtype=torch.float64)], dim=-1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A written scene."""
    torch.manual_seed(1)
    random = np.random.default_rng(0)
    points = PointCloud(
        random.normal(size=(NUM_POINTS, 3)),
        random.integers(0, 256, (NUM_POINTS, 3), np.uint8),
        np.ones(NUM_POINTS, np.float32),
        SOURCE_FRAMES * 14 * 28 + np.arange(NUM_POINTS),
    )
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(NUM_FRAMES, 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = (
        100 / 3,
        77.7,
        4.1,
        5.2,
    )
    start_scene_folder(tmp_path / "scene")
    write_scene(
        partial_folder(tmp_path / "scene"),
        SceneCameras(
            make_info(),
            FRAMES,
            1e9 + torch.arange(NUM_FRAMES, dtype=torch.float64) / 30,
            random_cameras(),
            intrinsics,
        ),
        points,
    )
    publish_scene_folder(tmp_path / "scene")
    return tmp_path / "scene"


def make_info() -> SceneInfo:
    return SceneInfo(
        code_version="0",
        created="now",
        input={"root": "/a"},
        num_frames=NUM_FRAMES,
        frame_indices=tuple(range(NUM_FRAMES)),
        processed_hw=(14, 28),
        chunks=((0, 6),),
        provided_frames=((0, 6),),
        world_from_chunk=(((1.0, 0.0, 0.0, 0.0),) * 4,),
        seams=(),
        num_points=NUM_POINTS,
        voxel_size=0.1,
        recipe={"a": {"b": 1}},
        checkpoint_sha256=None,
        num_processes=1,
        timings_s={"read": 0.1},
        peak_memory_bytes={"host": 1},
    )


def test_everything_reads_back(folder: Path) -> None:
    scene = load_scene(folder)
    torch.manual_seed(1)
    torch.testing.assert_close(scene.world_from_cam, random_cameras(), rtol=1e-14, atol=1e-13)
    assert torch.equal(scene.timestamps, 1e9 + torch.arange(NUM_FRAMES, dtype=torch.float64) / 30)
    assert scene.intrinsics[0].tolist() == [[100 / 3, 0, 4.1], [0, 77.7, 5.2], [0, 0, 1]]
    assert scene.info == make_info()
    assert [frame.num_points for frame in scene.frames] == [3, 1, 0, 2, 0, 3]
    assert tuple(frame.model_copy(update={"num_points": None}) for frame in scene.frames) == FRAMES
    assert scene.positions.shape == scene.colours.shape == (NUM_POINTS, 3)


def test_an_independent_reader_understands_the_trajectory(folder: Path) -> None:
    from evo.tools import file_interface

    trajectory = file_interface.read_tum_trajectory_file(str(folder / "trajectory.tum"))
    expected = load_scene(str(folder)).world_from_cam
    np.testing.assert_allclose(np.stack(trajectory.poses_se3)[:, :3], expected, atol=1e-9)


@pytest.mark.parametrize("name", ["scene.json", "trajectory.tum", "intrinsics.txt", "points.ply"])
@pytest.mark.parametrize("damage", ["absent", "cut", "one row less"])
def test_a_damaged_scene_is_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif damage == "one row less":
        path.write_bytes(
            content[:-15] if name == "points.ply" else content.rstrip().rpartition(b"\n")[0] + b"\n"
        )
    with pytest.raises(UserError) as caught:
        load_scene(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_newer_scene_takes_the_place_of_an_older_one(folder: Path) -> None:
    (folder / "depth").mkdir()
    start_scene_folder(folder)
    write_depth(partial_folder(folder), 3, np.ones((2, 3)), np.full((2, 3), 2.0))
    publish_scene_folder(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["scene"]
    assert [path.name for path in folder.rglob("*")] == ["depth", "000003.npz"]
    stored = np.load(folder / "depth/000003.npz")
    assert stored["depth"].dtype == stored["confidence"].dtype == np.float32


def test_only_the_same_run_goes_on_with_what_was_left(tmp_path: Path) -> None:
    output = tmp_path / "scene"
    start_scene_folder(output, {"recipe": [1, 2]})
    (work_folder(output) / "memory_0.safetensors").write_text("")
    start_scene_folder(output, {"recipe": (1, 2)})
    assert (work_folder(output) / "memory_0.safetensors").exists()
    assert not discard_scene_folder(output)
    start_scene_folder(output, {"recipe": [1, 3]})
    assert not (work_folder(output) / "memory_0.safetensors").exists()
    assert discard_scene_folder(output)
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_run_left_is_cleared(tmp_path: Path) -> None:
    start_scene_folder(tmp_path / "scene")
    (partial_folder(tmp_path / "scene") / "junk").write_text("")
    start_scene_folder(tmp_path / "scene")
    assert not (partial_folder(tmp_path / "scene") / "junk").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        start_scene_folder(tmp_path / "file" / "scene")
