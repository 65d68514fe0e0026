"""Known cameras: as numbers, from the index, from COLMAP's files; lenses are undone as OpenCV and COLMAP say."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from tests.inference.input.test_video import MODEL, choose, put

HW = (60, 80)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        put(images / f"{number}.png", *HW)
    return images


def first_row(intrinsics: torch.Tensor | None) -> list[float]:
    assert intrinsics is not None
    matrix = intrinsics[0]
    return [float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])]


@pytest.mark.parametrize("given", ["90 95 41 29", "90, 95, 41, 29", (90.0, 95.0, 41.0, 29.0)])
def test_numbers_are_of_the_input_image_and_come_out_at_the_processed_size(
    folder: Path, given: object
) -> None:
    video = choose(folder, intrinsics=given)
    assert video.image_hw == (42, 56)
    known = video.known_intrinsics(range(3))
    assert known is not None
    assert known.shape == (3, 3, 3)
    assert first_row(known) == pytest.approx([90 * 0.7, 95 * 0.7, 41 * 0.7, 29 * 0.7])
    assert first_row(video.input_intrinsics(range(3), known)) == pytest.approx([90, 95, 41, 29])


def test_cameras_of_the_index_with_its_pixel_centres(folder: Path) -> None:
    record = replace(
        open_source(folder), intrinsics=np.tile([90.0, 95, 40.5, 28.5], (3, 1)), pixel_centre="integer"
    )
    settings = InputSettings(intrinsics="from_index")
    video = Video.choose(record, settings, MODEL)
    assert first_row(video.known_intrinsics(range(1))) == pytest.approx([63, 66.5, 28.7, 20.3])
    assert Video.choose(record, InputSettings(), MODEL).known_intrinsics(range(1)) is None


def test_the_field_of_view_is_that_of_the_processed_images_unless_somebody_zooms(folder: Path) -> None:
    assert choose(folder, intrinsics=(90.0, 95.0, 41.0, 29.0)).known_fov() == pytest.approx(
        2 * math.atan(40 / 90)
    )
    assert choose(folder).known_fov() is None
    rows = np.tile([90.0, 95, 40.5, 28.5], (3, 1))
    rows[2, 0] = 92
    record = replace(open_source(folder), intrinsics=rows)
    assert Video.choose(record, InputSettings(intrinsics="from_index"), MODEL).known_fov() is None


def colmap(path: Path, model: str, parameters: list[float], hw: tuple[int, int] = HW) -> pycolmap.Camera:
    text = " ".join(map(repr, parameters))
    path.write_text(f"# Camera list\n1 {model} {hw[1]} {hw[0]} {text}\n")
    return pycolmap.Camera(model=model, width=hw[1], height=hw[0], params=parameters)


@pytest.mark.parametrize(
    ("model", "parameters", "expected"),
    [
        ("PINHOLE", [90.0, 95, 41, 29], [90, 95, 41, 29]),
        ("SIMPLE_PINHOLE", [90.0, 41, 29], [90, 90, 41, 29]),
        ("OPENCV", [90.0, 95, 41, 29, 0, 0, 0, 0], [90, 95, 41, 29]),
    ],
)
def test_colmap_cameras_without_a_lens(
    folder: Path, tmp_path: Path, model: str, parameters: list[float], expected: list[float]
) -> None:
    colmap(tmp_path / "cameras.txt", model, parameters)
    video = choose(folder, intrinsics=str(tmp_path / "cameras.txt"))
    known = video.known_intrinsics(range(3))
    assert known is not None
    assert first_row(video.input_intrinsics(range(3), known)) == pytest.approx(expected)
    assert torch.equal(video.images(range(3)), choose(folder).images(range(3)))


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("OPENCV", [310.0, 305, 322, 238, -0.2, 0.05, 0.001, -0.002]),
        ("SIMPLE_RADIAL", [310.0, 322, 238, -0.05]),
        ("OPENCV_FISHEYE", [310.0, 305, 322, 238, -0.02, 0.01, 0.0, 0.0]),
    ],
)
def test_lenses_are_undone_so_that_the_known_camera_is_the_image(
    tmp_path: Path, model: str, parameters: list[float]
) -> None:
    """A picture of the ray's direction, seen through pycolmap's lens, must come out as the pinhole's own."""
    hw = (480, 640)
    camera = colmap(tmp_path / "cameras.txt", model, parameters, hw)
    pixels = np.stack(np.meshgrid(np.arange(640) + 0.5, np.arange(480) + 0.5), -1).reshape(-1, 2)
    rays = np.asarray(camera.cam_from_img(pixels)).reshape(*hw, 2)
    shades = np.clip(np.concatenate([rays, rays[..., :1]], -1) * 80 + 128, 0, 255)
    (tmp_path / "images").mkdir()
    Image.fromarray(shades.round().astype(np.uint8)).save(tmp_path / "images/a.png")
    settings = InputSettings(intrinsics=str(tmp_path / "cameras.txt"), image_hw=(280, 392))
    video = Video.choose(open_source(tmp_path / "images"), settings, MODEL)
    image = video.images(range(1))[0].double()
    fx, fy, cx, cy = first_row(video.known_intrinsics(range(1)))
    x = (torch.arange(392) + 0.5 - cx) / fx
    y = (torch.arange(280) + 0.5 - cy) / fy
    inner = (slice(4, -4), slice(4, -4))
    assert (image[0] - (x * 80 + 128).clip(0, 255))[inner].abs().max() < 1.5
    assert (image[1] - (y * 80 + 128).clip(0, 255)[:, None])[inner].abs().max() < 1.5


def test_a_file_for_larger_originals_is_scaled(folder: Path, tmp_path: Path) -> None:
    colmap(tmp_path / "cameras.txt", "PINHOLE", [180.0, 190, 82, 58], (120, 160))
    video = choose(folder, intrinsics=str(tmp_path / "cameras.txt"))
    assert first_row(video.known_intrinsics(range(1))) == pytest.approx([63, 66.5, 28.7, 20.3])
    colmap(tmp_path / "cameras.txt", "PINHOLE", [180.0, 190, 82, 58], (120, 120))
    with pytest.raises(UserError, match=r"is of images of 120x120 pixels, 0\.png has 80x60"):
        choose(folder, intrinsics=str(tmp_path / "cameras.txt"))


def test_several_cameras_are_told_apart_by_images_txt(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 80 60 90 90 40 30\n2 SIMPLE_RADIAL 80 60 70 40 30 0.0\n")
    with pytest.raises(
        UserError, match=r"holds 2 cameras, .*images\.txt does not say which is that of 0\.png"
    ):
        choose(folder, intrinsics=str(tmp_path / "cameras.txt"))
    lines = [f"{n + 1} 1 0 0 0 0 0 0 {1 if n < 2 else 2} sub dir/{n}.png\n1.0 2.0 -1\n" for n in range(3)]
    (tmp_path / "images.txt").write_text("# Image list\n" + "".join(lines))
    known = choose(folder, intrinsics=str(tmp_path / "cameras.txt")).known_intrinsics(range(3))
    assert known is not None
    assert known[:, 0, 0].tolist() == pytest.approx([63, 63, 49])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("90 95 41", "is neither a file nor 'fx fy cx cy' nor from_index"),
        ("nowhere/cameras.txt", "is neither a file"),
        ("from_index", "but the input has none"),
        ("90 95 410 29", "do not fit images of 80x60 pixels"),
        ("-90 95 41 29", "do not fit"),
    ],
)
def test_what_is_no_camera_is_one_line(folder: Path, given: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        choose(folder, intrinsics=given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no camera"),
        ("1 PINHOLE 80 60 90", "a camera PINHOLE with 1 parameters"),
        ("1 FOV 80 60 90 90 40 30 0.9", "camera model FOV is not supported"),
        ("this is prose", "camera model is is not supported|cannot be read"),
    ],
)
def test_damaged_camera_files_are_one_line(folder: Path, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "cameras.txt").write_text(text)
    with pytest.raises(UserError, match=complaint):
        choose(folder, intrinsics=str(tmp_path / "cameras.txt"))


def test_mixed_sizes_need_a_file(folder: Path) -> None:
    put(folder / "3.png", 60, 90)
    with pytest.raises(UserError, match="of one image size, but the images have 2"):
        choose(folder, intrinsics="90 90 40 30")
