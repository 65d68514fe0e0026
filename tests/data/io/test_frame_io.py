"""Images of every kind become upright 8-bit RGB, or one line that names the file."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.camera.resize import ResizeRule
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.io.image_codec import read_image, read_image_size
from scal3r_train.data.sequence import SequenceRecord

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)


def test_rgb_grey_and_palette(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "rgb.png")
    assert (read_image(tmp_path / "rgb.png") == PICTURE).all()
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == PICTURE[..., :1]).all()
    two_colours = np.where(PICTURE[..., :1] > 128, 255, 0).astype(np.uint8).repeat(3, -1)
    Image.fromarray(two_colours).convert("P").save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == two_colours).all()


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    alpha = np.full((6, 10, 1), 255, np.uint8)
    alpha[0] = 0
    Image.fromarray(np.concatenate([PICTURE, alpha], -1)).save(tmp_path / "rgba.png")
    image = read_image(tmp_path / "rgba.png")
    assert (image[1:] == PICTURE[1:]).all()
    assert (image[0] == 0).all()


@pytest.mark.parametrize("name", ["sideways.png", "sideways.jpg"])
def test_exif_rotation_is_applied(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: rotate clockwise to view
    Image.fromarray(PICTURE).save(path, exif=exif)
    with Image.open(path) as stored:
        assert (read_image(path) == np.rot90(np.asarray(stored), -1)).all()
    assert read_image_size(path) == (10, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_opencv_and_pillow_decode_alike(tmp_path: Path, suffix: str) -> None:
    large = PICTURE.repeat(9, 0).repeat(7, 1)
    Image.fromarray(large).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert (read_image(tmp_path / f"a.{suffix}") == np.asarray(stored)).all()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """PNG files carry check sums; a damaged one is never half a picture."""
    path = tmp_path / "flipped.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.png cannot be read"):
        read_image(path)


@pytest.mark.parametrize("reader", [read_image, read_image_size])
def test_depth_images_are_refused_by_name(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    path = tmp_path / "secret.png"
    Image.fromarray(np.ones((4, 4), np.uint16)).save(path)
    with pytest.raises(UserError, match=r"secret\.png is a 16-bit .* probably depth"):
        reader(path)


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(PICTURE.repeat(20, 0).repeat(20, 1)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.jpg cannot be read: .*truncated"):
        read_image(path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png cannot be read: not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


def make_record(folder: Path) -> SequenceRecord:
    """Three frames of 40x60 of which the second has no depth; depth at half the resolution."""
    for i in range(3):
        Image.fromarray(np.full((40, 60, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(np.full((20, 30), 1000 * (i + 1), np.uint16)).save(folder / f"{i}d.png")
    return SequenceRecord(
        dataset="test",
        sequence_id="three",
        root=folder,
        image=("0.png", "1.png", "2.png"),
        image_size=np.array([[40, 60]] * 3),
        timestamp=np.array([0.0, 0.5, 1.0]),
        depth=("0d.png", "", "2d.png"),
        depth_codec="uint16_mm",
        intrinsics=np.array([[50.0, 50, 29.5, 19.5]] * 3),
        cam_from_world=np.concatenate([np.eye(3), np.arange(3.0)[:, None]], 1)[None].repeat(3, 0),
        pixel_centre="integer",
        max_depth=2.5,
    )


def test_frames_carry_everything_to_the_new_size(tmp_path: Path) -> None:
    frames = read_frames(make_record(tmp_path), [2, 0, 1], (20, 20))
    assert frames.images.shape == (3, 3, 20, 20)
    torch.testing.assert_close(frames.images[:, 0, 0, 0], torch.tensor([20.0, 0, 10]) / 255)
    assert frames.depth is not None
    assert frames.depth[:, 5, 5].tolist() == [0, 1, 0]  # beyond max_depth, one metre, no file
    assert frames.frame_indices.tolist() == [2, 0, 1]
    assert frames.timestamps.tolist() == [1.0, 0.0, 0.5]
    # 40x60 -> 20x30 -> centre 20x20: focal halves, the centre stays the centre
    expected = torch.tensor([[25.0, 0, 10], [0, 25, 10], [0, 0, 1]], dtype=torch.float64)
    assert frames.intrinsics is not None
    torch.testing.assert_close(frames.intrinsics, expected.repeat(3, 1, 1))
    original = torch.tensor([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(frames.pixel_map.input_intrinsics(frames.intrinsics), original.repeat(3, 1, 1))


def test_frames_by_rule_and_without_depth(tmp_path: Path) -> None:
    frames = read_frames(make_record(tmp_path), [0], ResizeRule(size=56), with_depth=False)
    assert frames.image_hw == (28, 56)
    assert frames.depth is None
    assert frames.num_frames == 1


def test_damaged_hdf5_images_are_named_whatever_h5py_raises(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "color.hdf5"
    with h5py.File(path, "w") as file:
        file["dataset"] = np.random.default_rng(0).uniform(0, 2, (12, 16, 3)).astype(np.float16)
    content, rng = path.read_bytes(), np.random.default_rng(1)
    assert read_image(path).shape == (12, 16, 3)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[int(rng.integers(8, 2048))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        for reader in (read_image, read_image_size):
            with contextlib.suppress(UserError):  # any other error fails the test
                reader(path)
