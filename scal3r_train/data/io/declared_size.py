"""What a file says of its size is held against limits and against the file, before memory is taken for it.

A picture of 30,000 x 30,000 equal pixels fits into some kilobytes, and a header may say anything. Sizes are read from
the header alone: PNG (chunk IHDR), JPEG (marker SOF, ITU-T T.81), OpenEXR (attributes dataWindow and channels). Deflate
(PNG, .npz, HDF5's gzip) makes of a byte at most 1032. Everything here raises ValueError. Shapes: H W pixels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

MAX_SIDE = 1 << 16
SHOWN_BELOW = 10**12
MAX_IMAGE_PIXELS = 1 << 27  # beyond any camera whose pictures somebody wants in 3D
MAX_DEPTH_PIXELS = 1 << 26
MAX_ARRAY_BYTES = 1 << 30  # of other arrays of numbers
DEFLATE_RATIO = 1032
JPEG_PIXELS_PER_BYTE = 4096  # every 8 x 8 block takes some bits
SMALL_BYTES = 1 << 20  # what is not worth a complaint

PNG_START, JPEG_START, EXR_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x76\x2f\x31\x01"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that begin a picture
EXR_BYTES = {0: 4, 1: 2, 2: 4}  # of a pixel of a channel, by type
MAX_EXR_ATTRIBUTES = 1000


def check_pixels(hw: tuple[int, int], max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Raise ValueError unless height and width are those of a picture that somebody may have."""
    height, width = hw
    if min(hw) < 1 or max(hw) > MAX_SIDE or height * width > max_pixels:
        shown = "x".join(str(side) if abs(side) < SHOWN_BELOW else "more" for side in (width, height))
        raise ValueError(f"it declares {shown} pixels; at most {max_pixels} are read")


def check_bytes(shape: Sequence[int], item_bytes: int, stored_bytes: int | None, most: int) -> None:
    """Raise ValueError unless an array has at most `most` bytes, and those that are stored can be unpacked to it.

    Args:
        shape: of the array.
        item_bytes: of one number.
        stored_bytes: that the file holds, perhaps deflated; None: it is not known.
        most: limit of the array's bytes.
    """
    if any(side < 0 for side in shape):
        raise ValueError(f"it declares an array of shape {list(shape)}")
    declared = math.prod(shape) * item_bytes
    if declared > most:
        raise ValueError(
            f"it declares an array of shape {list(shape)[:4]}; at most {most >> 20} MiB are read"
        )
    if stored_bytes is not None and declared > SMALL_BYTES + DEFLATE_RATIO * stored_bytes:
        raise ValueError(f"it declares an array of shape {list(shape)[:4]} and holds {stored_bytes} bytes")


def check_picture(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Raise ValueError for a PNG or JPEG file that declares too much, or more than it can hold; others pass."""
    if data.startswith(PNG_START):
        hw, bits = _png(data)
        check_pixels(hw, max_pixels)
        check_bytes((*hw, bits), 1, 8 * len(data), 8 * MAX_ARRAY_BYTES)
    elif data.startswith(JPEG_START):
        found = _jpeg(data)
        if found is None:
            return
        check_pixels(found, max_pixels)
        if math.prod(found) > SMALL_BYTES + JPEG_PIXELS_PER_BYTE * len(data):
            raise ValueError(f"it declares {found[1]}x{found[0]} pixels and holds {len(data)} bytes")


def check_exr(data: bytes, max_pixels: int = MAX_DEPTH_PIXELS) -> None:
    """Raise ValueError for an OpenEXR file that declares too much, in one channel or in all, or whose header is cut."""
    if not data.startswith(EXR_START):
        raise ValueError("no OpenEXR file")
    at, item_bytes, hw = 8, 0, (0, 0)
    try:
        for _ in range(MAX_EXR_ATTRIBUTES):
            if data[at] == 0:
                break
            name, at = _text(data, at)
            kind, at = _text(data, at)
            (size,) = struct.unpack_from("<i", data, at)
            value, at = data[at + 4 : at + 4 + size], at + 4 + size
            if size < 0 or len(value) != size:
                raise ValueError("its header is damaged")
            if (name, kind) == (b"dataWindow", b"box2i"):
                left, top, right, bottom = struct.unpack("<4i", value)
                hw = bottom - top + 1, right - left + 1
            elif (name, kind) == (b"channels", b"chlist"):
                item_bytes = sum(EXR_BYTES.get(number, 4) for number in _exr_channels(value))
    except (struct.error, IndexError):
        raise ValueError("its header is damaged") from None
    check_pixels(hw, max_pixels)
    check_bytes(hw, item_bytes, None, MAX_ARRAY_BYTES)


def _png(data: bytes) -> tuple[tuple[int, int], int]:
    """Height and width, and bits of a pixel."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        raise ValueError("its header is damaged")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return (height, width), depth * PNG_CHANNELS.get(colour, 4)


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Height and width; None where no frame is found, which decoders refuse."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker == 0xFF:
            at += 1
        elif marker in (0x01, *range(0xD0, 0xD9)):
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes up to a zero, and where they end behind it."""
    end = data.find(b"\0", at, at + 256)
    if end < 0:
        raise ValueError("its header is damaged")
    return data[at:end], end + 1


def _exr_channels(value: bytes) -> Iterator[int]:
    """Types of the channels of an attribute."""
    at = 0
    while value[at] != 0:
        _, at = _text(value, at)
        yield struct.unpack_from("<i", value, at)[0]
        at += 16
