"""Quirks of the sets that come with COLMAP models, with OpenGL cameras, or ready made."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from scal3r_data_tools import prepare
from scal3r_data_tools.adapters import colmap
from scal3r_data_tools.adapters.colmap_camera import Lens, lens_of, merged
from scal3r_data_tools.adapters.colmap_model import read_cameras, read_images
from scal3r_train.config import UserError
from scal3r_train.data.camera_model import distort
from tests.data_tools.lens_rays import colmap_camera, images_line

MODELS = {
    "SIMPLE_PINHOLE": [130, 80, 60],
    "PINHOLE": [130, 128, 80, 60],
    "SIMPLE_RADIAL": [130, 80, 60, 0.05],
    "RADIAL": [130, 80, 60, 0.05, -0.02],
    "OPENCV": [130, 128, 80, 60, 0.05, -0.06, -0.001, 0.0006],
    "OPENCV_FISHEYE": [130, 128, 80, 60, 0.05, -0.02, 0.004, -0.001],
    "FULL_OPENCV": [130, 128, 80, 60, 0.05, -0.06, -0.001, 0.0006, 0.01, 0.02, -0.01, 0.003],
    "SIMPLE_RADIAL_FISHEYE": [130, 80, 60, 0.05],
    "RADIAL_FISHEYE": [130, 80, 60, 0.05, -0.02],
    "THIN_PRISM_FISHEYE": [130, 128, 80, 60, 0.05, -0.02, 1e-3, -2e-3, 0.004, -0.001, 1e-3, 2e-3],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        130, 128, 80, 60, 0.05, -0.02, 0.004, -0.001, 1e-3, 1e-4, 1e-3, -2e-3, 1e-3, 2e-3, -1e-3, 1e-4,
    ],
    "SIMPLE_FISHEYE": [130, 80, 60],
    "FISHEYE": [130, 128, 80, 60],
}  # fmt: skip


@pytest.mark.parametrize("end", [".bin", ".txt"])
@pytest.mark.parametrize("name", MODELS)
def test_models_that_colmap_writes_are_read(name: str, end: str, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction()
    camera = colmap_camera(name, [float(value) for value in MODELS[name]], (120, 160))
    model.add_camera_with_trivial_rig(camera)
    quaternion_xyzw = np.array([0.1, -0.2, 0.3, 0.9]) / np.sqrt(0.95)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(quaternion_xyzw), np.array([1.0, 2.0, 3.0]))
    for number in (1, 2):
        points = [pycolmap.Point2D([1.5, 2.5])] * (3 * (number - 1))
        image = pycolmap.Image(
            name=f"a/{'long name ' * 40}{number}.jpg", camera_id=1, image_id=number, points2D=points
        )
        model.add_image_with_trivial_frame(image, pose)
    write = model.write_binary if end == ".bin" else model.write_text
    write(tmp_path)
    images = list(read_images(tmp_path))
    assert sorted(image.name for image in images) == sorted(image.name for image in model.images.values())
    assert np.abs(images[1].cam_from_world - pose.matrix()).max() < 1e-12
    (read,) = read_cameras(tmp_path).values()
    assert read.hw == (120, 160)
    kind, intrinsics, distortion = merged([lens_of(read)])
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    expected = np.asarray(camera.img_from_cam(np.column_stack([points, np.ones(50)])))
    coefficients = np.zeros(0) if distortion is None else distortion[0]
    got = distort(points, kind, coefficients) * intrinsics[0, :2] + intrinsics[0, 2:]
    assert np.abs(got - expected).max() < 1e-8


def test_cameras_of_one_kind_are_written_as_the_most_general() -> None:
    plain, bent = Lens("pinhole", (1, 2, 3, 4), ()), Lens("opencv", (1, 2, 3, 4), (0.1, 0.2, 0.3))
    assert merged([plain, plain])[2] is None
    kind, _, distortion = merged([plain, bent])
    assert kind == "opencv" and distortion is not None
    assert distortion.tolist() == [[0, 0, 0], [0.1, 0.2, 0.3]]
    fisheye, prism = (
        Lens("opencv_fisheye", (1, 1, 0, 0), (0.1, 0.2, 0.3, 0.4)),
        np.array([0.1, 0.2, 0, 0, 0.3, 0.4, 0, 0]),
    )
    kind, _, distortion = merged([fisheye, Lens("thin_prism_fisheye", (1, 1, 0, 0), (0.1,) * 8)])
    assert kind == "thin_prism_fisheye" and distortion is not None
    assert distortion[0].tolist() == prism.tolist()
    points = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    assert np.allclose(
        distort(points, kind, prism), distort(points, fisheye.model, np.array(fisheye.coefficients))
    )


def small_model(folder: Path, cameras: str, num_cameras: int = 1) -> None:
    (folder / "images").mkdir()
    (folder / "cameras.txt").write_text(cameras)
    lines = [images_line(i, np.eye(4)[:3], i % num_cameras, f"{i}.png") for i in range(4)]
    (folder / "images.txt").write_text("".join(lines))
    for i in range(4):
        Image.fromarray(np.full((12, 16, 3), i, np.uint8)).save(folder / "images" / f"{i}.png")


def test_lenses_that_cannot_be_one_become_two_sequences(tmp_path: Path) -> None:
    small_model(tmp_path, "0 PINHOLE 16 12 9 9 8 6\n1 OPENCV_FISHEYE 16 12 9 9 8 6 0.1 0 0 0\n", 2)
    records = list(colmap.index(tmp_path, colmap.Options()))
    assert [record.sequence_id.rpartition("/")[2] for record in records] == ["opencv", "thin_prism_fisheye"]
    assert [record.camera_model for record in records] == ["pinhole", "opencv_fisheye"]
    assert records[1].image == ("images/1.png", "images/3.png")


def test_what_colmap_knows_and_we_do_not_is_named(tmp_path: Path) -> None:
    small_model(tmp_path, "0 FOV 16 12 9 9 8 6 0.9\n")
    with pytest.raises(
        UserError, match=r"cameras\.txt: camera model FOV is not supported, only SIMPLE_PINHOLE, .*undistort"
    ):
        list(colmap.index(tmp_path, colmap.Options()))
    with pytest.raises(UserError, match=r"no folder 'photos' in it or above it"):
        list(colmap.index(tmp_path, colmap.Options(images="photos")))
    (tmp_path / "cameras.txt").write_text("0 PINHOLE 16 12 9 9 8\n")
    with pytest.raises(UserError, match=r"a camera PINHOLE with 3 parameters"):
        list(colmap.index(tmp_path, colmap.Options()))


def test_images_that_exif_turns_are_left_out(tmp_path: Path) -> None:
    small_model(tmp_path, "0 PINHOLE 16 12 9 9 8 6\n")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "images" / "2.png", exif=exif)
    (record,) = colmap.index(tmp_path, colmap.Options())
    assert record.num_frames == 3
    assert record.num_missing == 1


def test_prepare_says_which_sets_need_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"colmap needs no preparation, use `scal3r data index`; sets that do: "
    ):
        prepare.main("colmap", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"dataset 'nothing' is unknown"):
        prepare.main("nothing", tmp_path, tmp_path / "out")
