"""Image files to upright 8-bit RGB: grey is repeated, transparency is laid over black. 16-bit grey is refused, since
it is a depth map far more often than a picture. OpenCV decodes plain files, Pillow all others; linear images in HDF5
files are tone mapped (hdr_image.py).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scal3r_train.config import UserError
from scal3r_train.data.hdr_image import HDF5_START, decode_hdr, hdr_size

cv2.setNumThreads(0)  # its pool does not survive the fork that makes reading processes, which would then hang

EXIF_ORIENTATION = 274
EXIF_SIDEWAYS = (5, 6, 7, 8)
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
HDF5_SUFFIXES = (".hdf5", ".h5")
PNG_GREY_OR_RGB = (b"\x08\x00", b"\x08\x02")  # bit depth and colour type


def read_image(path: Path) -> np.ndarray:
    """Decode an image file into [H, W, 3] uint8 RGB, upright.

    Raises UserError naming the file when it is missing, truncated, no image, or a 16-bit (depth) image.
    """
    try:
        return decode_image(path.read_bytes(), path)
    except OSError as error:
        raise _image_error(path, error) from None


def decode_image(data: bytes, name: str | Path, reduction: int = 1) -> np.ndarray:
    """Decode the bytes of an image file into [H, W, 3] uint8 RGB, upright. Raises as `read_image`.

    reduction: 1, 2, 4 or 8; JPEG files are then decoded at that part of their size (rounded up), many times faster.
    """
    if _is_plain(data):
        flag = REDUCED[reduction if data.startswith(JPEG_START) else 1]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image is not None:
            return image
    try:
        if data.startswith(HDF5_START):
            return decode_hdr(data)
        with Image.open(BytesIO(data)) as file:
            _refuse_depth(file, name)
            upright = ImageOps.exif_transpose(file)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
                upright = Image.alpha_composite(black, upright)
            return np.asarray(upright.convert("RGB"))
    except Exception as error:  # whatever a parser of damaged bytes may raise; the message names the file
        raise _image_error(name, error) from None


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file after EXIF rotation, from its header alone. Raises as `read_image`."""
    try:
        if path.suffix.lower() in HDF5_SUFFIXES:
            return hdr_size(path)
        with Image.open(path) as image:
            _refuse_depth(image, path)
            width, height = image.size
            is_sideways = image.getexif().get(EXIF_ORIENTATION) in EXIF_SIDEWAYS
            return (width, height) if is_sideways else (height, width)
    except Exception as error:
        raise _image_error(path, error) from None


def _is_plain(data: bytes) -> bool:
    """Whether OpenCV decodes a file as Pillow does: complete, since OpenCV fills up truncated ones; no transparency."""
    if data.startswith(JPEG_START):
        return data.endswith(JPEG_END)
    if data.startswith(PNG_START):
        is_complete = PNG_END in data[-12:]
        return is_complete and data[24:26] in PNG_GREY_OR_RGB and b"tRNS" not in data and b"eXIf" not in data
    return False


def _refuse_depth(image: Image.Image, name: str | Path) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise UserError(f"{name} is a 16-bit or float image, probably depth; give 8-bit colour images only")


def _image_error(name: str | Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, ImportError):
        return UserError(f"image {name} needs {error.name}: pip install 'scal3r_train[data]'")
    if isinstance(error, FileNotFoundError):
        return UserError(f"image {name} does not exist; check the index or its root")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"image {name} cannot be read: not an image, or its header is damaged")
    return UserError(f"image {name} cannot be read: {error}")
