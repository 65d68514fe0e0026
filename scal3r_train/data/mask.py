"""Mask files: 8-bit images whose grey values say which pixels count. Shapes: H W pixels."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from scal3r_train.config import UserError

RULE = re.compile(r"(below|from) (\d+)")


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
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
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
