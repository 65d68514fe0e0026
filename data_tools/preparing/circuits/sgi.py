"""SGI images (.rgb), after the published description of the format (Paul Haeberli, "The SGI Image File Format").

Big endian: a header of 512 bytes, then planes of rows from the bottom up, as they are or run-length encoded with tables
of where each row starts. Eight bits a sample. Pillow reads them too, except those with two channels (grey and opacity).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError

HEADER_BYTES = 512
MAGIC = 474


def is_sgi(data: bytes) -> bool:
    """Tell whether the bytes of a file begin as an SGI image does."""
    return data[:2] == MAGIC.to_bytes(2, "big")


def decode_sgi(data: bytes, path: Path) -> np.ndarray:
    """Return the samples [H, W, C] uint8, C = 1 to 4, top row first. Raises UserError for another kind or damage."""
    try:
        magic, is_packed, sample_bytes, dimensions, width, height, channels = struct.unpack(
            ">HBBHHHH", data[:12]
        )
        if magic != MAGIC or sample_bytes != 1:
            raise ValueError("no SGI image of 8 bits")
        height = height if dimensions > 1 else 1
        channels = channels if dimensions > 2 else 1
        shape = (channels, height, width)
        planes = _unpacked(data, shape) if is_packed else _raw(data, shape)
    except (struct.error, IndexError, ValueError) as error:
        raise UserError(f"texture {path} cannot be read: {error}") from None
    return np.ascontiguousarray(planes.transpose(1, 2, 0)[::-1])


def _raw(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    return np.frombuffer(data, np.uint8, int(np.prod(shape)), HEADER_BYTES).reshape(shape)


def _unpacked(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    channels, height, width = shape
    starts = np.frombuffer(data, ">u4", channels * height, HEADER_BYTES)
    return np.stack([_row(data, int(start), width) for start in starts]).reshape(shape)


def _row(data: bytes, at: int, width: int) -> np.ndarray:
    """One row: a byte says how many samples follow (high bit set) or how often the next one stands; 0 ends it."""
    row = bytearray()
    while len(row) < width:
        count = data[at] & 127
        if count == 0:
            break
        if data[at] & 128:
            row += data[at + 1 : at + 1 + count]
            at += 1 + count
        else:
            row += data[at + 1 : at + 2] * count
            at += 2
    if len(row) != width:
        raise ValueError(f"a row of {len(row)} samples instead of {width}")
    return np.frombuffer(bytes(row), np.uint8)
