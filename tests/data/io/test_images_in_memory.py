"""Pictures in memory become the pixels that their files would give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source, sequence_of
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.data.io.image_codec import EXIF_ORIENTATION, read_image
from scal3r_train.data.io.images_in_memory import decoded_picture

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    "picture",
    [
        RGB,
        RGB.transpose(2, 0, 1),
        torch.from_numpy(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1),
        Image.fromarray(RGB),
        RGB / 255,
        (RGB / 255).astype(np.float32).transpose(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1) / 255,
        (torch.from_numpy(RGB) / 255).requires_grad_(),
    ],
)
def test_layout_and_type_do_not_matter(picture: Any) -> None:
    decoded = decoded_picture(picture, "image 0")
    assert decoded.dtype == np.uint8 and not np.shares_memory(decoded, RGB)
    np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize(
    "picture", [GREY, GREY[..., None], GREY[None] / 255, torch.from_numpy(GREY)[None], Image.fromarray(GREY)]
)
def test_grey_is_repeated(picture: Any) -> None:
    np.testing.assert_array_equal(decoded_picture(picture, "image 0"), np.repeat(GREY[..., None], 3, -1))


def test_transparency_is_laid_over_black_as_that_of_files(tmp_path: Path) -> None:
    rgba = np.concatenate([RGB, GREY[..., None]], -1)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = read_image(tmp_path / "a.png")
    for picture in (rgba, rgba.transpose(2, 0, 1), torch.from_numpy(rgba), Image.fromarray(rgba)):
        np.testing.assert_array_equal(decoded_picture(picture, "image 0"), expected)


def test_of_two_axes_that_could_be_channels_arrays_have_the_last_and_tensors_the_first() -> None:
    square = RANDOM.integers(0, 256, (3, 4, 3), np.uint8)
    np.testing.assert_array_equal(decoded_picture(square, "image 0"), square)
    np.testing.assert_array_equal(
        decoded_picture(torch.from_numpy(square), "image 0"), square.transpose(1, 2, 0)
    )


def test_a_half_precision_tensor_is_rounded_once() -> None:
    picture = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16)[:, None, None].expand(3, 2, 2)
    assert decoded_picture(picture, "image 0")[0, 0].tolist() == [0, 128, 255]


def test_a_photo_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png")
    assert expected.shape == (7, 5, 3)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(decoded_picture(image, "image 0"), expected)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (RGB.astype(np.int64), "image 0 is int64; give uint8, or floating point"),
        (
            RGB.astype(np.float32),
            r"image 0 lies in \[.*, [\d.e+]+\]; give RGB in \[0, 1\] \(of 0..255: images / 255",
        ),
        (RGB / 127.5 - 1, r"lies in \[-1, "),
        (np.full((5, 7, 3), np.nan), "lies in"),
        (RGB[:, :, :2], r"has shape \[5, 7, 2\]; give \[H, W, 3\]"),
        (np.zeros((0, 7, 3), np.uint8), "has shape"),
        (RGB[None], "has shape"),
        (Image.fromarray(GREY.astype(np.uint16)), "image 0 is a 16-bit or float image"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(picture: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        decoded_picture(picture, "image 0")
    assert "\n" not in str(refused.value)


def test_a_sequence_of_files_keeps_the_order_given(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    for folder, value in zip(folders, (10, 20), strict=True):
        folder.mkdir()
        Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(folder / "a.png")
    record = sequence_of([folders[1] / "a.png", str(folders[0] / "a.png")])
    assert record.image == ("two/a.png", "one/a.png") and record.root == tmp_path
    assert [int(read_frame_image(record, frame)[0, 0, 0]) for frame in (0, 1)] == [20, 10]
    assert sequence_of(folders[0] / "a.png").image == ("a.png",)
    assert sequence_of(folders[0]).image == open_source(folders[0]).image


def test_arrays_of_several_images_and_files_may_be_mixed(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    record = sequence_of(
        [np.stack([RGB, 255 - RGB]), tmp_path / "a.png", torch.from_numpy(RGB).permute(2, 0, 1)]
    )
    assert record.num_frames == 4 and record.image_size.tolist() == [[5, 7]] * 4
    for frame, expected in enumerate((RGB, 255 - RGB, RGB, RGB)):
        np.testing.assert_array_equal(read_frame_image(record, frame), expected)
    assert sequence_of(torch.zeros(2, 3, 5, 7)).num_frames == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images are given"),
        (3, "images are a int; give a folder, a video, or a list of images"),
        ([RGB, 3], "image 1 is a int; give a path, a PIL image, an array or a tensor"),
        ("nowhere.png", "input nowhere.png does not exist"),
        (["nowhere.png"], "nowhere.png does not exist"),
        ([RGB, "nowhere.png"], "nowhere.png does not exist"),
    ],
)
def test_what_is_no_sequence_is_refused_in_one_line(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        sequence_of(images)
    assert "\n" not in str(refused.value)
