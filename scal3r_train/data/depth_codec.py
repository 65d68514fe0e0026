"""Decoders of depth files: each turns one file into z-depth in metres (or scene units), float32, 0 = invalid.

An index names the codec of a sequence, so that depth stays where it is in its own format. Shapes: H W pixels.

| name | file | unit | invalid |
| --- | --- | --- | --- |
| uint16_mm | 16-bit grey PNG | millimetre (7-Scenes, ScanNet) | 0, 65535 |
| uint16_cm | 16-bit grey PNG | centimetre (towns, game_loop, Virtual KITTI) | 0, 65535 |
| uint16_5000ths | 16-bit grey PNG | 1/5000 metre (TUM RGB-D) | 0, 65535 |
| uint16_256ths | 16-bit grey PNG | 1/256 metre (KITTI depth) | 0, 65535 |
| float16_bits | 16-bit grey PNG whose bits are float16 (Co3D) | scene unit | 0, not finite, negative |
| npy | NumPy array [H, W] | scene unit | 0, not finite, negative |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from scal3r_train.config import UserError

UINT16_UNITS_PER_METRE = {
    "uint16_mm": 1000.0,
    "uint16_cm": 100.0,
    "uint16_5000ths": 5000.0,
    "uint16_256ths": 256.0,
}
SATURATED = 65535


def read_depth(path: Path, codec: str) -> np.ndarray:
    """Decode one depth file into [H, W] float32 z-depth, 0 = invalid.

    Raises UserError for an unknown codec and for a file that is missing or not what the codec expects.
    """
    if codec not in CODECS:
        raise UserError(f"depth codec '{codec}' of {path} is unknown; known are {', '.join(sorted(CODECS))}")
    try:
        return CODECS[codec](path)
    except FileNotFoundError:
        raise UserError(f"depth file {path} does not exist; check the index or its root") from None
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"depth file {path} cannot be read as {codec}: {error}") from None


def decode_uint16(raw: np.ndarray, codec: str) -> np.ndarray:
    """Counts [H, W] uint16 -> z-depth float32 in metres; 0 and 65535 (saturated, no return) become 0."""
    depth = raw.astype(np.float32) / np.float32(UINT16_UNITS_PER_METRE[codec])
    depth[raw == SATURATED] = 0
    return depth


def encode_uint16(depth: np.ndarray, codec: str) -> np.ndarray:
    """z-depth [H, W] in metres -> counts uint16; beyond the codec's range and invalid depths become 0."""
    counts = np.rint(np.asarray(depth, np.float64) * UINT16_UNITS_PER_METRE[codec])
    return np.where((counts > 0) & (counts < SATURATED), counts, 0).astype(np.uint16)


def _read_uint16_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode not in ("I;16", "I;16B", "I"):
            raise ValueError(f"an image of mode {image.mode}, not 16-bit grey")
        raw = np.asarray(image)
    if raw.min() < 0 or raw.max() > SATURATED:
        raise ValueError("values do not fit 16 bits")
    return raw.astype(np.uint16)


def _uint16_reader(codec: str) -> Callable[[Path], np.ndarray]:
    return lambda path: decode_uint16(_read_uint16_png(path), codec)


def _read_float16_bits(path: Path) -> np.ndarray:
    return _valid_or_zero(_read_uint16_png(path).view(np.float16))


def _read_npy(path: Path) -> np.ndarray:
    depth = np.load(path, allow_pickle=False)
    if depth.ndim != 2:
        raise ValueError(f"an array of shape {depth.shape}, not [H, W]")
    return _valid_or_zero(depth)


def _valid_or_zero(depth: np.ndarray) -> np.ndarray:
    """Formats without a fixed invalid value mark it by NaN, infinity or a negative number: all become 0."""
    depth = depth.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


CODECS: dict[str, Callable[[Path], np.ndarray]] = {
    **{name: _uint16_reader(name) for name in UINT16_UNITS_PER_METRE},
    "float16_bits": _read_float16_bits,
    "npy": _read_npy,
}
