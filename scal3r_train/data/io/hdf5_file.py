"""One array of numbers out of an HDF5 file (needs h5py): whole, in this file, and no larger than a limit.

HDF5 can name bytes of other files (external storage, external links, virtual data sets), which an index from elsewhere
has no business to read, and can declare any size without holding a byte of it.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_train.data.io.declared_size import MAX_ARRAY_BYTES, check_bytes

NUMBERS = "biuf"


def read_hdf5(source: bytes | Path, key: str, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """Return the array `key`. Raises as `hdf5_shape`."""
    import h5py  # noqa: PLC0415  optional

    with h5py.File(BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
        return np.asarray(dataset_of(file, key, max_bytes)[()])


def hdf5_shape(source: bytes | Path, key: str, max_bytes: int = MAX_ARRAY_BYTES) -> tuple[int, ...]:
    """Return the shape of the array `key`, reading none of it.

    Raises:
        ImportError: h5py is not installed.
        OSError: the file cannot be read or is damaged.
        ValueError: there is no such array of numbers in it, or one that it cannot hold.
    """
    import h5py  # noqa: PLC0415  optional

    with h5py.File(BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
        return tuple(int(side) for side in dataset_of(file, key, max_bytes).shape)


def dataset_of(file: Any, key: str, max_bytes: int = MAX_ARRAY_BYTES, kinds: str = NUMBERS) -> Any:
    """Return the h5py.Dataset of an open h5py.File or group; `kinds` are those of numpy that it may hold.

    Raises ValueError as `hdf5_shape`.
    """
    import h5py  # noqa: PLC0415  optional

    link = file.get(key, getlink=True)
    if link is None:
        raise ValueError(f"it holds {', '.join(file)[:80]} but no '{key}'")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"its '{key}' is a link to another place")
    found = file[key]
    if not isinstance(found, h5py.Dataset) or found.shape is None or found.dtype.kind not in kinds:
        raise ValueError(f"its '{key}' is no array of such values")
    if found.external or found.is_virtual:
        raise ValueError(f"the numbers of its '{key}' are in other files")
    stored = found.id.get_storage_size()
    check_bytes(found.shape, found.dtype.itemsize, stored, max_bytes)
    if math.prod(found.shape) and not stored:
        raise ValueError(f"it declares an array of shape {list(found.shape)} and holds none of it")
    if found.chunks is not None:
        check_bytes(found.chunks, found.dtype.itemsize, None, max_bytes)
    return found
