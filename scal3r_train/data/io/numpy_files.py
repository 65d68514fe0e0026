"""Arrays in .npy and .npz files, of which nothing is unpacked before its size is known to be possible.

numpy takes memory for what the header declares, and unpacks what the archive holds. After numpy's description of its
format (numpy.lib.format); no pickles. Everything here raises ValueError for what is no such file, OSError as files do.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from scal3r_train.data.io.declared_size import MAX_ARRAY_BYTES, check_bytes

NUMBERS_AND_TEXT = "biufcUS"
PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BROKEN_ARCHIVE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, KeyError, EOFError, OverflowError,
)  # fmt: skip


def read_npy(source: bytes | Path, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """Return the array of a .npy file or of its bytes. Raises ValueError, or OSError as the file does."""
    if isinstance(source, bytes):
        return _array(BytesIO(source), len(source), len(source), max_bytes)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _array(file, size, size, max_bytes)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays of a .npz file. Raises ValueError, or OSError as the file does."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"it is damaged: {error}") from None


def read_npz(path: Path, wanted: Collection[str], max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """Return those of the wanted arrays that a .npz file holds. Raises ValueError, or OSError as the file does."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            for name in wanted:
                if (entry := entries.get(name)) is None:
                    continue
                if entry.compress_type not in PACKING:
                    raise ValueError(f"'{name}' is packed in another way than numpy does")
                with archive.open(entry) as file:
                    found[name] = _array(file, entry.file_size, entry.compress_size, max_bytes)
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"it is damaged: {error}") from None
    return found


def _array(file: IO[bytes], num_bytes: int, stored_bytes: int, max_bytes: int) -> np.ndarray:
    """Read one array, of a file or entry of so many bytes that takes stored_bytes on the disk."""
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"a .npy file of version {version[0]}.{version[1]}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except (TypeError, RecursionError, MemoryError, EOFError, SyntaxError, OverflowError):
        raise ValueError("no .npy file, or its header is damaged") from None
    if dtype.kind not in NUMBERS_AND_TEXT:
        raise ValueError(f"an array of {dtype}, not of numbers")
    check_bytes(shape, dtype.itemsize, stored_bytes, max_bytes)
    size = math.prod(shape) * dtype.itemsize
    if size > num_bytes:
        raise ValueError(f"it declares an array of shape {list(shape)} and holds {num_bytes} bytes")
    array = np.empty(math.prod(shape), dtype)
    num_read = file.readinto(array.view(np.uint8).data) if size else 0  # type: ignore[attr-defined]
    if num_read != size:
        raise ValueError(f"it holds {num_read} bytes of an array of {size}")
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
