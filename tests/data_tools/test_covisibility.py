"""Covisible frames from depth and from frustums."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from scal3r_data_tools.covisibility import covisible_frames, scene_distance
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.miniature import Miniature, make_miniature, pinhole_rays, render


def record_of(scene: Miniature, folder: Path) -> SequenceRecord:
    for i, depth in enumerate(scene.depth):
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(folder / f"{i}.png")
    return SequenceRecord(
        dataset="test", sequence_id="s", root=folder, image=("",) * scene.num_frames,
        image_size=np.array([scene.hw] * scene.num_frames), timestamp=scene.timestamp,
        depth=tuple(f"{i}.png" for i in range(scene.num_frames)), depth_codec="uint16_mm", camera_model="pinhole",
        intrinsics=scene.intrinsics, cam_from_world=scene.cam_from_world, is_ordered=False,
    )  # fmt: skip


def turned_round(scene: Miniature, frames: range) -> Miniature:
    """Some cameras look at the wall behind instead, with the depth that is seen there."""
    poses, depth = scene.cam_from_world.copy(), scene.depth.copy()
    for frame in frames:
        poses[frame] = np.diag([-1.0, 1, -1]) @ poses[frame]
        rays = pinhole_rays(scene.intrinsics[frame], scene.hw)
        depth[frame] = render(poses[frame], rays)[1]
    return dataclasses.replace(scene, cam_from_world=poses, depth=depth)


def test_neighbours_see_the_same_and_opposite_views_do_not(tmp_path: Path) -> None:
    scene = turned_round(make_miniature(10, hw=(60, 80), focal=(65.0, 64.0)), range(5, 10))
    for record in (record_of(scene, tmp_path), dataclasses.replace(record_of(scene, tmp_path), depth=())):
        covisible = covisible_frames(record, 4)
        assert covisible.shape == (10, 4)
        for frame in range(10):
            mine = range(5) if frame < 5 else range(5, 10)
            assert set(covisible[frame]) <= {*mine, -1} - {frame}
            assert abs(covisible[frame, 0] - frame) <= 2  # the best is one of the nearest


def test_what_is_hidden_is_not_seen(tmp_path: Path) -> None:
    """A camera behind a wall (depth close by) sees none of what lies beyond it."""
    scene = make_miniature(4, hw=(60, 80), focal=(65.0, 64.0), step_m=0.05)
    depth = scene.depth.copy()
    depth[3] = 0.5
    covisible = covisible_frames(record_of(dataclasses.replace(scene, depth=depth), tmp_path), 3)
    assert 3 not in covisible[:3]
    assert (covisible[3] == -1).all()


def test_broken_depth_counts_as_none(tmp_path: Path) -> None:
    record = record_of(make_miniature(6, hw=(60, 80), focal=(65.0, 64.0)), tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    assert (covisible_frames(record, 3)[2] >= 0).any()


def test_distance_of_a_scene_is_where_cameras_look() -> None:
    angles = np.linspace(0, 1.5, 7)
    poses = []
    for angle in angles:
        back = np.array([np.sin(angle), 0, -np.cos(angle)])  # camera on a circle of radius 5 round (1, 2, 3)
        z = -back
        x = np.cross([0, 1.0, 0], z)
        rotation = np.stack([x, np.cross(z, x), z])
        poses.append(np.column_stack([rotation, -rotation @ (np.array([1.0, 2, 3]) + 5 * back)]))
    assert abs(scene_distance(np.array(poses)) - 5) < 1e-6
