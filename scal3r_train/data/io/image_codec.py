"""Decoding of image and mask files: any picture as upright 8-bit RGB, any mask as which pixels count.

Grey is repeated, transparency is laid over black. 16-bit grey is refused, since it is a depth map far more often than
a picture. OpenCV decodes plain files, Pillow all others. Linear, unbounded images in HDF5 files (Hypersim's, which
need h5py) are tone mapped as the set's authors do it: one factor for the image, such that the 90th percentile of
brightness becomes 0.8 after gamma 1 / 2.2, and what is then above 1 is cut. Brightness is 0.3 R + 0.59 G + 0.11 B of
the finite pixels. Masks are 8-bit images whose grey values say which pixels count. Shapes: H W pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from scal3r_train.config import UserError
from scal3r_train.data.io.declared_size import check_picture, check_pixels
from scal3r_train.data.io.hdf5_file import hdf5_shape, read_hdf5
from scal3r_train.text_file import read_file_bytes

HDF5_START = b"\x89HDF\r\n\x1a\n"
KEY = "dataset"
GAMMA = 1 / 2.2
PERCENTILE, BRIGHTNESS = 90, 0.8
DARKEST = 1e-4
EXIF_ORIENTATION = 274
EXIF_UPRIGHT, EXIF_TURNED, EXIF_SIDEWAYS = 1, (2, 3, 4, 5, 6, 7, 8), (5, 6, 7, 8)
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
XMP_ORIENTATION, XMP_BYTES = b"tiff:Orientation", 1 << 18  # metadata come before the pixels
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
HDF5_SUFFIXES = (".hdf5", ".h5")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
PNG_GREY_OR_RGB = (b"\x08\x00", b"\x08\x02")  # bit depth and colour type
RULE = re.compile(r"(below|from) (\d+)")


class DamagedImageError(UserError):
    """An image file that is there but cannot be read; one of a folder may be left out for it."""


def decode_hdr(data: bytes) -> np.ndarray:
    """Decode the bytes of an HDF5 file into [H, W, 3] uint8.

    Raises ImportError without h5py, OSError or ValueError for what is no such image.
    """
    return tone_mapped(_colour(read_hdf5(data, KEY)).astype(np.float32))


def hdr_size(path: Path) -> tuple[int, int]:
    """Height and width from the header alone. Raises as `decode_hdr`."""
    height, width, channels = (*hdf5_shape(path, KEY), 0, 0, 0)[:3]
    _refuse_other_shape((height, width, channels))
    return height, width


def tone_mapped(linear: np.ndarray) -> np.ndarray:
    """Linear colours [H, W, 3] float32 -> [H, W, 3] uint8; pixels that are not finite become black."""
    finite = np.isfinite(linear).all(-1)
    linear = np.where(finite[..., None], np.maximum(linear, 0), 0)
    brightness = (linear @ np.array([0.3, 0.59, 0.11], np.float32))[finite]
    bright = float(np.percentile(brightness, PERCENTILE)) if finite.any() else 0.0
    factor = BRIGHTNESS ** (1 / GAMMA) / bright if bright >= DARKEST else 0.0
    return np.rint(255 * np.minimum((factor * linear) ** GAMMA, 1)).astype(np.uint8)


def _colour(values: np.ndarray) -> np.ndarray:
    _refuse_other_shape(values.shape)
    return values


def _refuse_other_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"an HDF5 file without '{KEY}' of shape [H, W, 3]")
    check_pixels((shape[0], shape[1]))


cv2.setNumThreads(0)  # its pool does not survive the fork that makes reading processes, which would then hang


def read_image(path: Path) -> np.ndarray:
    """Decode an image file into [H, W, 3] uint8 RGB, upright.

    Raises UserError naming the file when it is missing, truncated, no image, or a 16-bit (depth) image.
    """
    try:
        return decode_image(read_file_bytes(path), path)
    except OSError as error:
        raise _image_error(path, error) from None


def decode_image(data: bytes, name: str | Path, reduction: int = 1) -> np.ndarray:
    """Decode the bytes of an image file into [H, W, 3] uint8 RGB, upright. Raises as `read_image`.

    reduction: 1, 2, 4 or 8; JPEG files are then decoded at that part of their size (rounded up), many times faster.
    """
    try:
        check_picture(data)
    except ValueError as error:
        raise _image_error(name, error) from None
    if _is_plain(data):
        flag = REDUCED[reduction if data.startswith(JPEG_START) else 1]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image is not None:
            return image
    try:
        if data.startswith(HDF5_START):
            return decode_hdr(data)
        _prepare(name)
        with Image.open(BytesIO(data)) as file:
            return pixels_of(file, name)
    except Exception as error:  # whatever a parser of damaged bytes may raise; the message names the file
        raise _image_error(name, error) from None


def pixels_of(image: Image.Image, name: str | Path) -> np.ndarray:
    """Return a picture of Pillow's as [H, W, 3] uint8 RGB, upright. Raises as `read_image`."""
    try:
        _refuse_depth(image, name)
        check_pixels((image.height, image.width))
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
            upright = Image.alpha_composite(black, upright)
        return np.asarray(upright.convert("RGB"))
    except Exception as error:
        raise _image_error(name, error) from None


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says of the picture that `read_image` gives.

    Attributes:
        hw: height and width, upright.
        is_turned: the pixels are stored otherwise (by EXIF or XMP), so that a camera of the stored pixels is not that
            of the picture.
    """

    hw: tuple[int, int]
    is_turned: bool


@cache
def knows_heif() -> bool:
    """Return whether HEIC and HEIF files can be read here, and let Pillow read them if so."""
    try:
        import pillow_heif  # noqa: PLC0415  optional
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def read_image_header(path: Path) -> ImageHeader:
    """Return what the header of an image file says; no pixels are decoded. Raises as `read_image`."""
    try:
        if path.suffix.lower() in HDF5_SUFFIXES:
            return ImageHeader(hdr_size(path), is_turned=False)
        _prepare(path)
        with Image.open(path) as image:
            _refuse_depth(image, path)
            width, height = image.size
            check_pixels((height, width))
            orientation = image.getexif().get(EXIF_ORIENTATION, EXIF_UPRIGHT)  # Pillow looks into XMP too
            if orientation in EXIF_SIDEWAYS and not _has_upright_size(image):
                width, height = height, width
            return ImageHeader((height, width), is_turned=orientation in EXIF_TURNED)
    except Exception as error:
        raise _image_error(path, error) from None


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as `read_image` gives it, from its header alone. Raises as `read_image`."""
    return read_image_header(path).hw


def _prepare(name: str | Path) -> None:
    """Load what a file needs to be read, by its name."""
    if str(name).lower().endswith(HEIF_SUFFIXES) and not knows_heif():
        raise UserError(
            f"image {name} needs pillow-heif: pip install 'scal3r_train[data]', or convert it to JPEG"
        )


def _has_upright_size(image: Image.Image) -> bool:
    """Whether Pillow has turned the size of a TIFF file already, as it does before it decodes one."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return image.size != (image.tag_v2.get(TIFF_WIDTH), image.tag_v2.get(TIFF_HEIGHT))


def _is_plain(data: bytes) -> bool:
    """Whether OpenCV decodes a file as Pillow does: whole, not transparent, not to be turned by XMP."""
    if data.startswith(JPEG_START):
        return data.endswith(JPEG_END) and XMP_ORIENTATION not in data[:XMP_BYTES]
    if data.startswith(PNG_START):
        is_complete = PNG_END in data[-12:]
        needs_more = any(mark in data for mark in (b"tRNS", b"eXIf", XMP_ORIENTATION))
        return is_complete and data[24:26] in PNG_GREY_OR_RGB and not needs_more
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
        return DamagedImageError(f"image {name} cannot be read: not an image, or its header is damaged")
    return DamagedImageError(f"image {name} cannot be read: {error}")


def decode_mask(data: bytes, rule: str, name: str | Path) -> np.ndarray:
    """Decode the bytes of a mask file into [H, W] bool, true where the rule marks the pixel.

    Args:
        data: content of an 8-bit image file; of a colour image the first channel counts.
        rule: "below N" marks values under N, "from N" values of at least N.
        name: of the file, for messages.

    Raises:
        UserError: the rule is none, or the file is no 8-bit image.
    """
    parts = RULE.fullmatch(rule)
    if parts is None:
        raise UserError(f"mask rule '{rule}' of {name} is unknown; it must be 'below N' or 'from N'")
    try:
        check_picture(data)
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (ValueError, cv2.error) as error:
        raise UserError(f"mask {name} cannot be read: {error}") from None
    if values is None or values.dtype != np.uint8:
        raise UserError(f"mask {name} cannot be read: not an 8-bit image, or damaged")
    if values.ndim == 3:
        values = values[..., 0]
    threshold = int(parts[2])
    return values < threshold if parts[1] == "below" else values >= threshold


def at_size(mask: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Mask [h, w] of the same view at another resolution, nearest value."""
    if mask.shape == hw:
        return mask
    return cv2.resize(mask.astype(np.uint8), (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(
        bool
    )
