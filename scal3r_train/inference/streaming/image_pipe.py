"""Images that come through a pipe one after another, cut apart and written into a folder as files.

JPEG (ITU-T T.81: markers, segments with their length, entropy-coded data up to the next marker), PNG (chunks with
their length up to IEND) and binary PPM or PGM of 8 bits (Netpbm). This is what `ffmpeg -f image2pipe` writes with
`-c:v mjpeg`, `png` or `ppm`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image

from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.io.declared_size import check_pixels
from scal3r_train.data.io.image_codec import decode_image
from scal3r_train.notes import tell

READ_BYTES = 1 << 16
BETWEEN_IMAGES = b"\0\t\n\r "
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JPEG_END, JPEG_SCAN, JPEG_FILL = 0xD9, 0xDA, 0xFF
JPEG_RESTARTS = range(0xD0, 0xD8)
JPEG_ALONE = (0x01, *JPEG_RESTARTS)  # markers without a segment
PNM_HEADER = re.compile(rb"P([56])(?:(?:\s|#[^\n]*\n)+\d+){3}\s")
PNM_COMMENT = re.compile(rb"#[^\n]*\n")
MAX_PNM_HEADER = 4096
MAX_BYTES = 1 << 29  # of one image as it comes
MAX_UINT8 = 255


class CutOffError(Exception):
    """The stream ends inside an image."""


def split_images(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the suffix (".jpg", ".png", ".ppm") and the bytes of every image of a stream.

    `stream.read(n)` may return fewer bytes while more are to come, as a raw file does.

    Raises:
        CutOffError: the stream ends inside an image.
        UserError: the stream holds something else.
    """
    data = _StreamBuffer(stream)
    num_images = 0
    while data.skip(BETWEEN_IMAGES):
        data.need(2)
        start = bytes(data.buffer[:2])
        if start == JPEG_START:
            suffix, end = ".jpg", _jpeg_end(data, num_images)
        elif start == PNG_START[:2]:
            suffix, end = ".png", _png_end(data)
        elif start in (b"P5", b"P6"):
            suffix, end = ".ppm", _pnm_end(data, num_images)
        else:
            raise _not_an_image(num_images, start)
        yield suffix, data.take(end)
        num_images += 1


class Spool(threading.Thread):
    """Writes the images of a stream into a folder, NNNNNN.jpg or .png, each at once under its final name.

    Attributes:
        folder: of the images.
        error: what ended the stream before its time.
        num_images: how many are written.
    """

    def __init__(self, stream: IO[bytes], folder: Path, *, overwrite: bool = False) -> None:
        """Make the folder; `start` begins to read.

        Raises:
            UserError: the folder cannot be made, or holds other files. With `overwrite` images that another spool has
                left there are removed.
        """
        super().__init__(daemon=True)
        self._stream, self.folder = stream, folder
        self.error: UserError | None = None
        self.num_images = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = list(folder.iterdir())
            if overwrite and all(re.fullmatch(r"\d{6,}\.(jpg|png)", path.name) for path in there):
                for path in there:
                    path.unlink()
                there = []
        except OSError as error:
            raise UserError(f"folder {folder} cannot be made: {error.strerror}; set follow.spool") from None
        if there:
            raise UserError(
                f"folder {folder} for the images of the pipe is not empty; remove it or set follow.spool"
            )

    @property
    def has_ended(self) -> bool:
        """Whether no image will come any more."""
        return self.ident is not None and not self.is_alive()

    def run(self) -> None:
        """Read until the stream ends."""
        try:
            for suffix, image in split_images(self._stream):
                self._write(suffix, image)
                self.num_images += 1
        except CutOffError:
            tell(f"the pipe ends inside image {self.num_images}, which is left out")
        except UserError as error:
            self.error = error
        except OSError as error:
            self.error = UserError(f"image {self.num_images} of the pipe cannot be kept: {error}")

    def _write(self, suffix: str, image: bytes) -> None:
        if suffix == ".ppm":
            with atomic_output(self.folder / f"{self.num_images:06d}.png") as path:
                picture = decode_image(image, f"{self.num_images} of the pipe")
                Image.fromarray(picture).save(path, compress_level=1)
        else:
            with atomic_output(self.folder / f"{self.num_images:06d}{suffix}") as path:
                path.write_bytes(image)


class _StreamBuffer:
    """The part of a stream that has been read and not taken."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.buffer = bytearray()

    def more(self) -> bool:
        """Read on; False at the end."""
        new = self._stream.read(READ_BYTES)
        self.buffer += new
        return bool(new)

    def need(self, num_bytes: int) -> None:
        """Have at least so many bytes."""
        if num_bytes > MAX_BYTES:
            raise UserError(
                f"the pipe declares an image of more than {MAX_BYTES >> 20} MiB; give smaller ones"
            )
        while len(self.buffer) < num_bytes:
            if not self.more():
                raise CutOffError

    def find(self, byte: bytes, start: int) -> int:
        """Return where a byte is next."""
        while (place := self.buffer.find(byte, start)) < 0:
            start = len(self.buffer)
            self.need(start + 1)
        return place

    def skip(self, bytes_between: bytes) -> bool:
        """Drop some kinds of bytes; False when nothing follows."""
        while True:
            self.buffer = self.buffer.lstrip(bytes_between)
            if self.buffer:
                return True
            if not self.more():
                return False

    def take(self, end: int) -> bytes:
        """Return the bytes up to `end` and drop them."""
        self.need(end)
        taken = bytes(self.buffer[:end])
        del self.buffer[:end]
        return taken

    def number(self, start: int, num_bytes: int) -> int:
        """Return a big-endian number."""
        self.need(start + num_bytes)
        return int.from_bytes(self.buffer[start : start + num_bytes], "big")


def _jpeg_end(data: _StreamBuffer, number: int) -> int:
    at = len(JPEG_START)
    while True:
        data.need(at + 2)
        fill, marker = data.buffer[at], data.buffer[at + 1]
        if fill != JPEG_FILL:
            raise _not_an_image(number, bytes(data.buffer[at : at + 2]))
        if marker == JPEG_END:
            return at + 2
        if marker == JPEG_FILL:
            at += 1
        elif marker in JPEG_ALONE:
            at += 2
        else:
            at += 2 + data.number(at + 2, 2)
            if marker == JPEG_SCAN:
                at = _scan_end(data, at)


def _scan_end(data: _StreamBuffer, at: int) -> int:
    """Return where the marker after entropy-coded data is: stuffed zeros and restarts belong to the data."""
    while True:
        at = data.find(b"\xff", at)
        data.need(at + 2)
        marker = data.buffer[at + 1]
        if marker == JPEG_FILL:
            at += 1
        elif marker == 0 or marker in JPEG_RESTARTS:
            at += 2
        else:
            return at


def _png_end(data: _StreamBuffer) -> int:
    at = len(PNG_START)
    while True:
        length = data.number(at, 4)
        data.need(at + 8)
        kind = bytes(data.buffer[at + 4 : at + 8])
        at += 12 + length
        if kind == b"IEND":
            return at


def _pnm_end(data: _StreamBuffer, number: int) -> int:
    while (header := PNM_HEADER.match(data.buffer[:MAX_PNM_HEADER])) is None:
        if len(data.buffer) >= MAX_PNM_HEADER:
            raise _not_an_image(number, bytes(data.buffer[:2]))
        data.need(len(data.buffer) + 1)
    words = PNM_COMMENT.sub(b" ", header[0]).split()
    try:
        width, height, largest = map(int, words[1:])
        check_pixels((height, width))
    except ValueError as error:
        raise UserError(f"image {number} of the pipe cannot be read: {error}") from None
    if largest > MAX_UINT8:
        raise UserError(f"image {number} of the pipe has 16 bits a channel; give 8-bit images only")
    return header.end() + width * height * (3 if words[0] == b"P6" else 1)


def _not_an_image(number: int, found: bytes) -> UserError:
    return UserError(
        f"image {number} of the pipe is neither JPEG, PNG nor binary PPM (found {found!r}); "
        "with ffmpeg: -f image2pipe -c:v png -"
    )
