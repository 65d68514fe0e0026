"""Masks by name and by index, at the processed size, and what is told when they are missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from tests.inference.input.test_video import MODEL, choose, put

HW = (56, 112)  # processed at half: 28 x 56


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.png", "c.png"):
        put(images / name, *HW)
    (tmp_path / "masks").mkdir()
    return images


def half(left: int, right: int, hw: tuple[int, int] = HW) -> np.ndarray:
    values = np.full(hw, right, np.uint8)
    values[:, : hw[1] // 2] = left
    return values


def save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(values).save(path)


def is_left_out(mask: torch.Tensor) -> bool:
    return not mask[:, :28].any() and bool(mask[:, 28:].all())


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg.png", "b.png.png", "c.png.png"),  # COLMAP's
        ("a.png", "b.png", "c.png"),
        ("a.jpg", "b.jpeg", "deep/down/c.png"),
    ],
)
def test_black_is_left_out_whatever_the_name(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(half(0, 255), folder.parent / "masks" / name)
    video = choose(folder, masks=folder.parent / "masks")
    masks = video.masks(range(3))
    assert masks is not None
    assert masks.shape == (3, 28, 56)
    assert masks.dtype == torch.bool
    assert all(is_left_out(mask) for mask in masks)
    assert video.notes == ()
    assert torch.equal(video.masks(range(1, 2)), masks[1:2])


def test_any_grey_counts_in_png_and_a_smaller_mask_is_enlarged(folder: Path) -> None:
    save(half(0, 1), folder.parent / "masks/a.png")
    save(half(0, 255, (28, 56)), folder.parent / "masks/b.png")
    save(np.stack([half(0, 200)] * 3, -1), folder.parent / "masks/c.png")
    masks = choose(folder, masks=folder.parent / "masks").masks(range(3))
    assert masks is not None
    assert all(is_left_out(mask) for mask in masks)


def test_inverted(folder: Path) -> None:
    for name in "abc":
        save(half(255, 0), folder.parent / "masks" / f"{name}.png")
    masks = choose(folder, masks=folder.parent / "masks", invert_masks=True).masks(range(3))
    assert masks is not None
    assert all(is_left_out(mask) for mask in masks)


def test_frames_without_a_mask_count_whole_and_are_told_of(folder: Path) -> None:
    save(half(0, 255), folder.parent / "masks/b.png")
    video = choose(folder, masks=folder.parent / "masks")
    masks = video.masks(range(3))
    assert masks is not None
    assert masks[0].all() and masks[2].all() and is_left_out(masks[1])
    assert video.notes == ("2 of 3 frames have no mask (first: a.jpg); all their pixels are used",)


def test_masks_follow_the_cut(tmp_path: Path) -> None:
    """A square image in a wide sequence loses its top and bottom, and so does its mask."""
    (tmp_path / "in").mkdir()
    put(tmp_path / "in/a.png", 56, 112)
    put(tmp_path / "in/b.png", 112, 112)
    values = np.full((112, 112), 255, np.uint8)
    values[:56] = 0
    save(values, tmp_path / "masks/b.png")
    masks = choose(tmp_path / "in", masks=tmp_path / "masks").masks(range(1, 2))
    assert masks is not None
    assert not masks[0, :14].any() and masks[0, 14:].all()


@pytest.mark.parametrize(
    ("name", "hw", "complaint"),
    [
        (
            "x.png",
            HW,
            r"holds no mask of any image \(1 \.png and \.jpg files\); that of a\.jpg would be called a\.png",
        ),
        ("a.png", (112, 56), r"a\.png has 56x112 pixels, its image 112x56"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(
    folder: Path, name: str, hw: tuple[int, int], complaint: str
) -> None:
    save(half(0, 255, hw), folder.parent / "masks" / name)
    with pytest.raises(UserError, match=complaint):
        choose(folder, masks=folder.parent / "masks").masks(range(3))


def test_no_folder_and_a_damaged_mask(folder: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        choose(folder, masks=folder.parent / "nowhere")
    (folder.parent / "masks/a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        choose(folder, masks=folder.parent / "masks").masks(range(1))


def test_masks_and_sky_of_an_index(folder: Path, tmp_path: Path) -> None:
    """Turned upright with the image; a mask of the folder counts besides."""
    save(half(0, 255), tmp_path / "m.png")
    sky = np.zeros(HW, np.uint8)
    sky[:28] = 200
    save(sky, tmp_path / "sky.png")
    record = replace(
        open_source(folder),
        mask=("../m.png", "", ""),
        mask_rule="below 1",
        sky_mask=("../sky.png", "../sky.png", ""),
        sky_mask_rule="from 100",
    )
    video = Video.choose(record, InputSettings(), MODEL)
    masks = video.masks(range(3))
    assert masks is not None
    expected = torch.zeros(28, 56, dtype=torch.bool)
    expected[14:, 28:] = True
    assert torch.equal(masks[0], expected)
    assert not masks[1, :14].any() and masks[1, 14:].all()
    assert masks[2].all()
    assert video.notes[0].startswith("1 of 3 frames have no mask (first: c.png)")
    turned = Video.choose(replace(record, quarter_turns=1), InputSettings(), MODEL)
    assert turned.image_hw == (56, 28)
    found = turned.masks(range(1))
    assert found is not None
    assert torch.equal(found[0], torch.rot90(expected, -1))
    save(half(255, 0), tmp_path / "masks/a.png")
    both = Video.choose(record, InputSettings(masks=tmp_path / "masks"), MODEL).masks(range(1))
    assert both is not None
    assert not both.any()


def test_masks_bend_with_their_images_when_a_lens_is_undone(tmp_path: Path) -> None:
    """The picture is its own mask, so where the undistorted picture is white the mask must be true."""
    values = np.zeros((112, 112), np.uint8)
    values[10:102, 10:102] = 255
    save(np.stack([values] * 3, -1), tmp_path / "in/a.png")
    save(values, tmp_path / "masks/a.png")
    (tmp_path / "cameras.txt").write_text("1 OPENCV 112 112 60 60 56 56 -0.25 0.04 0 0\n")
    video = choose(tmp_path / "in", masks=tmp_path / "masks", intrinsics=str(tmp_path / "cameras.txt"))
    masks = video.masks(range(1))
    assert masks is not None
    image = video.images(range(1))[0, 0]
    is_sure = (image < 30) | (image > 225)
    assert torch.equal(masks[0][is_sure], image[is_sure] > 225)
    straight = choose(tmp_path / "in", masks=tmp_path / "masks").masks(range(1))
    assert straight is not None
    assert (straight != masks).sum() > 100
