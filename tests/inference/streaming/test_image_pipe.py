"""Images through a pipe come out byte for byte, however they are encoded and however the pipe delivers them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.inference.streaming.image_pipe import CutOffError, Spool, split_images

PIXELS = np.random.default_rng(0).integers(0, 256, (45, 62, 3), np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG that holds another one in its APP1 segment."""
    inner = encoded("JPEG", quality=10)
    whole = encoded("JPEG")
    return whole[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + whole[2:]


IMAGES = {
    "jpeg": (".jpg", encoded("JPEG", quality=95)),
    "progressive": (".jpg", encoded("JPEG", progressive=True)),
    "restarts": (".jpg", encoded("JPEG", restart_marker_blocks=2)),
    "thumbnail": (".jpg", with_thumbnail()),
    "png": (".png", encoded("PNG")),
    "ppm": (".ppm", encoded("PPM")),
    "pgm": (".ppm", b"P5\n# a comment 3 4\n3 2\n255\n\n 01\xff\xd8"),
}


class Drip(io.RawIOBase):
    """Delivers a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes, num_bytes: int) -> None:
        self._file, self._num_bytes = io.BytesIO(data), num_bytes

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, self._num_bytes))


@pytest.mark.parametrize("num_bytes", [1, 7, 1 << 16])
def test_every_image_comes_out_as_it_went_in(num_bytes: int) -> None:
    wanted = [*IMAGES.values(), *reversed(IMAGES.values())]
    stream = Drip(b"".join(image for _, image in wanted), num_bytes)
    assert list(split_images(stream)) == wanted


def test_padding_between_images_is_skipped() -> None:
    jpeg = IMAGES["jpeg"]
    assert list(split_images(io.BytesIO(b"\0\n".join([jpeg[1]] * 3) + b"\0" * 5))) == [jpeg] * 3


@pytest.mark.parametrize("name", IMAGES)
def test_a_cut_off_image_is_told(name: str) -> None:
    first, (suffix, last) = IMAGES["png"], IMAGES[name]
    for end in {1, 2, 5, len(last) // 2, len(last) - 1} - {0, len(last)}:
        images = split_images(io.BytesIO(first[1] + last[:end]))
        assert next(images) == first, suffix
        with pytest.raises(CutOffError):
            next(images)


@pytest.mark.parametrize(
    "junk", [b"GIF89a", b"\xff\xd8\x12\x34", b"P6 words\n" + b"x" * 5000, b"P6" + b" " * 5000]
)
def test_anything_else_is_refused(junk: bytes) -> None:
    with pytest.raises(UserError, match="image 1 of the pipe is neither JPEG, PNG nor"):
        list(split_images(io.BytesIO(IMAGES["png"][1] + junk)))


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(UserError, match="16 bits"):
        list(split_images(io.BytesIO(b"P6 1 1 65535\n" + b"x" * 6)))


def test_a_spool_writes_files_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = b"".join(IMAGES[name][1] for name in ("jpeg", "ppm", "png"))
    spool = Spool(io.BytesIO(data + IMAGES["jpeg"][1][:100]), tmp_path / "frames")
    assert not spool.has_ended
    spool.start()
    spool.join()
    assert spool.has_ended
    assert spool.error is None
    assert "the pipe ends inside image 3" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["000000.jpg", "000001.png", "000002.png"]
    assert (tmp_path / "frames/000000.jpg").read_bytes() == IMAGES["jpeg"][1]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "frames/000001.png")), PIXELS)


def test_a_spool_removes_only_its_own_images(tmp_path: Path) -> None:
    (tmp_path / "000000.png").write_bytes(b"old")
    with pytest.raises(UserError, match="not empty"):
        Spool(io.BytesIO(), tmp_path)
    Spool(io.BytesIO(), tmp_path, overwrite=True)
    assert not any(tmp_path.iterdir())
    (tmp_path / "000000.png").write_bytes(b"old")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        Spool(io.BytesIO(), tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2
