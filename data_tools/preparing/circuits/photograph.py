"""From exact light to what a cheap camera stores: exposure, tint, noise. Shapes: H W pixels."""

from __future__ import annotations

import numpy as np

from scal3r_data_tools.preparing.circuits.drive import Style
from scal3r_train.data.io.depth_codec import SATURATED, encode_uint16

CODEC = "uint16_cm_sky"
KNEE = 0.8  # brighter than this share of full scale, highlights are compressed


def photograph(image: np.ndarray, style: Style, exposure: float, rng: np.random.Generator) -> np.ndarray:
    """Return the picture [H, W, 3] uint8 of exact colours [H, W, 3] float32 in 0..255.

    Noise is as strong in the dark as in the light; it is drawn for every pixel and channel.
    """
    scaled = image * (exposure * style.tint).astype(np.float32)
    knee = 255 * KNEE
    over = np.maximum(scaled - knee, 0)
    room = 255 - knee
    bright = np.minimum(scaled, knee) + room * over / (over + room)
    if style.noise > 0:
        bright = bright + np.float32(style.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(bright), 0, 255).astype(np.uint8)


def depth_counts(depth: np.ndarray) -> np.ndarray:
    """Return what is stored of z [H, W] in metres: centimetres, SATURATED where nothing was hit, 0 for too far."""
    return np.where(depth > 0, encode_uint16(depth, CODEC), SATURATED).astype(np.uint16)
