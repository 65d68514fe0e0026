"""Folders as they are found in the wild, and images of every kind."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.data.io.image_codec import read_image, read_image_size

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8), (0, 0), 6)


def test_hidden_files_and_others_are_left_out(tmp_path: Path) -> None:
    for name in ("._b.jpg", "Thumbs.db", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "b.jpg")
    Image.fromarray(PICTURE).save(tmp_path / "c.webp", lossless=True)
    Image.fromarray(PICTURE).save(tmp_path / "d.TIFF")
    record = open_source(tmp_path)
    assert record.image == ("b.jpg", "c.webp", "d.TIFF")
    for name in record.image[1:]:
        assert (read_image(tmp_path / name) == PICTURE).all()


def test_a_folder_without_images_says_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scal3r_train.data.index.source.knows_heif", lambda: False)
    (tmp_path / "phone").mkdir()
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / "phone" / f"{number}.HEIC").write_bytes(b"")
        (tmp_path / "raw" / f"{number}.DNG").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"holds 3 \.heic files; pip install 'scal3r_train\[data\]' to read them"
    ):
        open_source(tmp_path / "phone")
    with pytest.raises(UserError, match=r"holds no images; it holds 3 \.dng files; put \*\.png"):
        open_source(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "images/a.png")
    (tmp_path / "depth").mkdir()
    Image.fromarray(np.ones((4, 6), np.uint16)).save(tmp_path / "depth/a.png")
    record = open_source(tmp_path)
    assert (record.root, record.image) == (tmp_path / "images", ("a.png",))
    assert record.sequence_id == tmp_path.name
    assert "those of images/ are taken" in capsys.readouterr().err
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        Image.fromarray(PICTURE).save(tmp_path / name / "a.png")
    assert open_source(tmp_path).root.name == "images"
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(UserError, match=r"holds no images; did you mean .*/left or .*/right\?"):
        open_source(tmp_path)


def test_names_that_are_seconds_give_times_and_order(tmp_path: Path) -> None:
    """As numbers .9 comes before .10, as seconds after it."""
    names = ("1311868164.10.png", "1311868164.363181.png", "1311868164.9.png")
    for name in names:
        Image.fromarray(PICTURE).save(tmp_path / name)
    record = open_source(tmp_path)
    assert record.image == names
    assert record.timestamp.tolist() == [1311868164.10, 1311868164.363181, 1311868164.9]
    Image.fromarray(PICTURE).save(tmp_path / "last.png")
    assert open_source(tmp_path).timestamp.tolist() == [0, 1, 2, 3]


def test_cmyk_photos_have_the_colours_of_rgb(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    image = read_image(tmp_path / "print.jpg")
    assert np.abs(image.astype(int) - PICTURE).max() <= 8
    assert read_image_size(tmp_path / "print.jpg") == PICTURE.shape[:2]


@pytest.mark.parametrize("alpha", [False, True])
def test_16_bits_per_colour_become_8(tmp_path: Path, alpha: bool) -> None:
    deep = PICTURE.astype(np.uint16) * 257
    stored = deep[..., ::-1]
    if alpha:
        stored = np.concatenate([stored, np.full((*PICTURE.shape[:2], 1), 65535, np.uint16)], -1)
    cv2.imwrite(str(tmp_path / "deep.png"), stored)
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - PICTURE).max() <= 1


def test_grey_with_alpha_is_laid_over_black(tmp_path: Path) -> None:
    grey = np.full((4, 6), 200, np.uint8)
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[1] = 0
    Image.fromarray(np.stack([grey, alpha], -1), "LA").save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image[1] == 0).all()
    assert (image[[0, 2, 3]] == 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The eight of the EXIF standard, section 4.6.4 A: where row 0 and column 0 of the file are shown."""
    upright = PICTURE
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[274] = orientation
    for name, settings in (("a.png", {}), ("a.jpg", {"quality": 100, "subsampling": 0})):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(stored)).save(
            buffer, name[2:].replace("jpg", "jpeg"), exif=exif, **settings
        )
        (tmp_path / name).write_bytes(buffer.getvalue())
        image = read_image(tmp_path / name)
        assert image.shape == upright.shape
        assert np.abs(image.astype(int) - upright).max() <= (0 if name == "a.png" else 6)
        assert read_image_size(tmp_path / name) == upright.shape[:2]
