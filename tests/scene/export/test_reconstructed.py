"""What reconstruct writes, export reads: from a folder of images to models of other programs."""

import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh

from scal3r_train import cli
from scal3r_train.config import load_config
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import load_scene
from tests.inference.conftest import IMAGE_HW, NUM_FRAMES
from tests.scene.export.conftest import Run

SETTINGS = ["schedule.chunk_size=4", "schedule.overlap=2", "input.resize.size=42", "export.report=false"]


def reconstructed(model: Scal3RModel, images: Path, folder: Path, *overrides: str) -> Path:
    recipe = load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides])
    reconstruct(images, model, recipe, folder, "abc")
    return folder


def test_predicted_cameras(tiny_model: Scal3RModel, image_folder: Path, tmp_path: Path, export: Run) -> None:
    folder = reconstructed(tiny_model, image_folder, tmp_path / "scene", "export.max_points=1000")
    scene = load_scene(folder)
    output = export(folder, "colmap", "--write-images")
    model = pycolmap.Reconstruction(output)
    assert sorted(image.name for image in model.images.values()) == [
        f"{i:03d}.png" for i in range(NUM_FRAMES)
    ]
    assert len(model.cameras) == NUM_FRAMES
    for number, image in model.images.items():
        pose = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(pose, scene.world_from_cam[number - 1], atol=1e-9)
        camera = model.cameras[image.camera_id]
        assert (camera.height, camera.width) == IMAGE_HW
        np.testing.assert_array_equal(camera.calibration_matrix(), scene.intrinsics[number - 1])
        name = f"images/{image.name}"
        assert (output / name).read_bytes() == (image_folder / image.name).read_bytes()
    assert len(model.points3D) == len(scene.positions) == 1000
    cloud = trimesh.load(export(folder, "ply", name="p.ply"))
    np.testing.assert_array_equal(cloud.vertices, scene.positions)


def test_given_cameras_are_one_camera(
    tiny_model: Scal3RModel, image_folder: Path, tmp_path: Path, export: Run
) -> None:
    folder = reconstructed(
        tiny_model, image_folder, tmp_path / "scene", "input.intrinsics='80 81 44.5 31.25'"
    )
    model = pycolmap.Reconstruction(export(folder, "colmap"))
    assert len(model.cameras) == 1
    np.testing.assert_allclose(model.cameras[1].params, [80, 81, 44.5, 31.25], rtol=1e-5)


def test_exports_need_no_optional_package(
    tiny_model: Scal3RModel,
    image_folder: Path,
    tmp_path: Path,
    export: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = reconstructed(tiny_model, image_folder, tmp_path / "scene", "export.max_points=100")
    capsys.readouterr()
    for package in ("pycolmap", "trimesh", "av"):
        monkeypatch.setitem(sys.modules, package, None)
    for form in ("colmap", "ply", "glb", "nerfstudio", "tum", "kitti"):
        assert cli.main(["export", str(folder), str(tmp_path / form), "--to", form]) == 0
    assert capsys.readouterr().err == ""
