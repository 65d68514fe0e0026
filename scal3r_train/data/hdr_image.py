"""Linear, unbounded images in HDF5 files (Hypersim's) to 8-bit RGB.

Tone mapping is that of the set's authors: one factor for the image, such that the 90th percentile of brightness becomes
0.8 after gamma 1 / 2.2, and what is then above 1 is cut. Brightness is 0.3 R + 0.59 G + 0.11 B of the finite pixels.
Needs h5py. Shapes: H W pixels.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

HDF5_START = b"\x89HDF\r\n\x1a\n"
KEY = "dataset"
GAMMA = 1 / 2.2
PERCENTILE, BRIGHTNESS = 90, 0.8
DARKEST = 1e-4


def decode_hdr(data: bytes) -> np.ndarray:
    """Decode the bytes of an HDF5 file into [H, W, 3] uint8.

    Raises ImportError without h5py, OSError or ValueError for what is no such image.
    """
    import h5py  # noqa: PLC0415  optional

    with h5py.File(BytesIO(data), "r") as file:
        return tone_mapped(np.asarray(_colour(file)[()], np.float32))


def hdr_size(path: Path) -> tuple[int, int]:
    """Height and width from the header alone. Raises as `decode_hdr`."""
    import h5py  # noqa: PLC0415  optional

    with h5py.File(path, "r") as file:
        height, width, _ = _colour(file).shape
        return int(height), int(width)


def tone_mapped(linear: np.ndarray) -> np.ndarray:
    """Linear colours [H, W, 3] float32 -> [H, W, 3] uint8; pixels that are not finite become black."""
    finite = np.isfinite(linear).all(-1)
    linear = np.where(finite[..., None], np.maximum(linear, 0), 0)
    brightness = (linear @ np.array([0.3, 0.59, 0.11], np.float32))[finite]
    bright = float(np.percentile(brightness, PERCENTILE)) if finite.any() else 0.0
    factor = BRIGHTNESS ** (1 / GAMMA) / bright if bright >= DARKEST else 0.0
    return np.rint(255 * np.minimum((factor * linear) ** GAMMA, 1)).astype(np.uint8)


def _colour(file):  # type: ignore[no-untyped-def]  # an h5py.Dataset
    if KEY not in file or file[KEY].ndim != 3 or file[KEY].shape[2] != 3:
        raise ValueError(f"an HDF5 file without '{KEY}' of shape [H, W, 3]")
    return file[KEY]
