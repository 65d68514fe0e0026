"""COLMAP models: pycolmap finds the scene's cameras, names and points."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from scal3r_train.scene.scene import load_scene
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import NAMES, make_scene


@pytest.mark.parametrize("form", ["binary", "text"])
def test_pycolmap_finds_the_scene(tmp_path: Path, export: Run, form: str) -> None:
    names = tuple(name.replace(" ", "_") for name in NAMES) if form == "text" else NAMES
    folder = make_scene(tmp_path / "scene", names=names)
    scene = load_scene(folder)
    model = pycolmap.Reconstruction(export(folder, "colmap", *(["--text"] if form == "text" else [])))
    images = {image.name: image for image in model.images.values()}
    assert [model.images[number].name for number in sorted(model.images)] == list(names)
    assert len(model.cameras) == len(names)
    for frame, name in enumerate(names):
        image = images[name]
        world_from_cam = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(world_from_cam, scene.world_from_cam[frame], atol=1e-9)
        camera = model.cameras[image.camera_id]
        assert camera.model == pycolmap.CameraModelId.PINHOLE
        assert (camera.height, camera.width) == scene.frames[frame].image_hw
        np.testing.assert_array_equal(camera.calibration_matrix(), scene.intrinsics[frame])
    points = [model.points3D[number] for number in sorted(model.points3D)]
    # Text has nine digits, which tell one float32 from the next.
    found = np.stack([point.xyz for point in points])
    np.testing.assert_array_equal(found.astype(np.float32) if form == "text" else found, scene.positions)
    np.testing.assert_array_equal(np.stack([point.color for point in points]), scene.colours)
    assert {(point.error, point.track.length()) for point in points} == {(0.0, 0)}


def test_a_world_point_falls_on_the_same_pixel(scene: Path, export: Run) -> None:
    ours = load_scene(scene)
    model = pycolmap.Reconstruction(export(scene, "colmap"))
    for frame, (_, image) in enumerate(sorted(model.images.items())):
        pose = ours.world_from_cam[frame].numpy()
        pixel = np.array([20.25, 30.75])
        ray = np.linalg.inv(ours.intrinsics[frame].numpy()) @ [*pixel, 1]
        world = pose[:, :3] @ (3 * ray) + pose[:, 3]
        np.testing.assert_allclose(image.project_point(world), pixel, atol=1e-9)


def test_a_scene_without_points(tmp_path: Path, export: Run) -> None:
    model = pycolmap.Reconstruction(export(make_scene(tmp_path / "scene", 0), "colmap"))
    assert len(model.images) == len(NAMES)
    assert len(model.points3D) == 0


def test_equal_intrinsics_share_a_camera_per_size(tmp_path: Path, export: Run) -> None:
    folder = make_scene(tmp_path / "scene", equal_intrinsics=True)
    model = pycolmap.Reconstruction(export(folder, "colmap"))
    assert [(c.height, c.width) for _, c in sorted(model.cameras.items())] == [(48, 64), (64, 48)]
    assert [image.camera_id for _, image in sorted(model.images.items())] == [1, 1, 1, 2, 2]


def test_single_camera_is_the_median_of_its_size(tmp_path: Path, export: Run) -> None:
    # Portrait frames come first: cameras count in the order of frames, not of sizes.
    sizes = ((64, 48), (48, 64), (48, 64), (48, 64), (64, 48))
    folder = make_scene(tmp_path / "scene", sizes=sizes)
    model = pycolmap.Reconstruction(export(folder, "colmap", "--single-camera"))
    intrinsics = load_scene(folder).intrinsics.numpy()
    for number, frames in ((1, [0, 4]), (2, [1, 2, 3])):
        expected = np.median(intrinsics[frames], axis=0)
        np.testing.assert_array_equal(model.cameras[number].calibration_matrix(), expected)
    assert [image.camera_id for _, image in sorted(model.images.items())] == [1, 2, 2, 2, 1]


def test_our_own_adapter_reads_it_back(tmp_path: Path, export: Run) -> None:
    from scal3r_data_tools.adapters import colmap
    from scal3r_train.data.io.frame_io import read_frames

    folder = make_scene(tmp_path / "scene", root=tmp_path / "photos")
    output = export(folder, "colmap", "--write-images")
    (record,) = colmap.index(output, colmap.Options())
    scene = load_scene(folder)
    frames = read_frames(record, range(3), (48, 64))
    assert record.image == tuple(f"images/{name}" for name in NAMES)
    extrinsics = np.concatenate([frames.extrinsics, np.tile([[[0, 0, 0, 1.0]]], (3, 1, 1))], axis=1)
    np.testing.assert_allclose(np.linalg.inv(extrinsics)[:, :3], scene.world_from_cam[:3], atol=1e-9)
    np.testing.assert_allclose(frames.intrinsics, scene.intrinsics[:3], atol=1e-9)
    assert (output / "images/a/1.png").read_bytes() == (tmp_path / "photos/a/1.png").read_bytes()


def test_text_with_a_space_in_a_name_is_refused(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from scal3r_train import cli

    assert cli.main(["export", str(scene), str(tmp_path / "o"), "--to", "colmap", "--text"]) == 2
    assert "has a space" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
