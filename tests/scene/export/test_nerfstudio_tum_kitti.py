"""nerfstudio, TUM and KITTI: other readers find the scene's cameras."""

import json
from pathlib import Path

import numpy as np
import pytest
from evo.tools import file_interface

from scal3r_data_tools.adapters import nerfstudio
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.metrics.trajectory_io import read_trajectory
from scal3r_train.scene.scene import load_scene
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import NAMES, make_scene
from tests.scene.test_ply import independent_ply


@pytest.mark.parametrize("writes_images", [True, False])
def test_our_own_adapter_reads_nerfstudio(tmp_path: Path, export: Run, writes_images: bool) -> None:
    folder = make_scene(tmp_path / "scene", root=tmp_path / "deep" / "photos")
    output = export(folder, "nerfstudio", *(["--write-images"] if writes_images else []))
    (record,) = nerfstudio.index(output, nerfstudio.Options())
    scene = load_scene(folder)
    start = "images/" if writes_images else "../deep/photos/"
    assert record.image == tuple(start + name for name in NAMES)
    assert record.image_size.tolist() == [list(frame.image_hw) for frame in scene.frames]
    frames = read_frames(record, range(3), (48, 64))
    extrinsics = np.concatenate([frames.extrinsics, np.tile([[[0, 0, 0, 1.0]]], (3, 1, 1))], axis=1)
    np.testing.assert_allclose(np.linalg.inv(extrinsics)[:, :3], scene.world_from_cam[:3], atol=1e-12)
    np.testing.assert_array_equal(frames.intrinsics, scene.intrinsics[:3])


def test_nerfstudio_looks_along_minus_z_and_keeps_its_points(scene: Path, export: Run) -> None:
    output = export(scene, "nerfstudio", "--min-confidence", 4)
    document = json.loads((output / "transforms.json").read_text())
    assert document["applied_transform"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    ours = load_scene(scene)
    for frame, row in enumerate(document["frames"]):
        transform = np.array(row["transform_matrix"])
        assert np.linalg.det(transform) == pytest.approx(1)
        camera = ours.world_from_cam[frame].numpy()
        np.testing.assert_array_equal(-transform[:3, 2], camera[:, 2])  # forward
        np.testing.assert_array_equal(-transform[:3, 1], camera[:, 1])  # down
        np.testing.assert_array_equal(transform[:3, 3], camera[:, 3])
    rows = independent_ply(output / document["ply_file_path"])
    kept = ours.positions[ours.confidence >= 4]
    np.testing.assert_array_equal([[row[name] for name in "xyz"] for row in rows], kept)


def test_tum_is_the_scenes_own(scene: Path, export: Run) -> None:
    path = export(scene, "tum", name="out.txt")
    assert path.read_bytes() == (scene / "trajectory.tum").read_bytes()
    trajectory = file_interface.read_tum_trajectory_file(str(path))
    np.testing.assert_allclose(
        np.stack(trajectory.poses_se3)[:, :3], load_scene(scene).world_from_cam, atol=1e-9
    )


def test_kitti_starts_at_its_first_camera(scene: Path, export: Run) -> None:
    path = export(scene, "kitti", name="out.txt")
    whole = np.tile(np.eye(4), (5, 1, 1))
    whole[:, :3] = load_scene(scene).world_from_cam.numpy()
    poses = np.stack(file_interface.read_kitti_poses_file(str(path)).poses_se3)
    np.testing.assert_allclose(poses, np.linalg.inv(whole[0]) @ whole, atol=1e-12)
    assert read_trajectory(path).timestamps is None
