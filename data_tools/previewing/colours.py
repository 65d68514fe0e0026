"""Depth as colours, and depth laid over its image so that the two can be compared. Shapes: H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib import colormaps

NEAR_TO_FAR = colormaps["turbo_r"]
INVALID, SKY, DROPPED = (0, 0, 0), (255, 255, 255), (128, 128, 128)
EDGE = (255, 0, 255)
SPARSE_SHARE = 0.2  # of the pixels, below which a depth map is drawn as dots
DOT = np.ones((3, 3), np.uint8)
TINT = 0.3  # share of the depth's colour in the overlay


@dataclass(frozen=True)
class DepthScale:
    """What is drawn as near and as far, in the unit of the depth; one for all frames of a sequence."""

    near: float
    far: float

    @classmethod
    def of(cls, depths: Sequence[np.ndarray]) -> DepthScale | None:
        """Return the scale that fits most of some depth maps [H, W], None when they hold no depth."""
        valid = [depth[depth > 0] for depth in depths]
        if not sum(len(values) for values in valid):
            return None
        near, far = np.quantile(np.concatenate(valid), [0.02, 0.98])
        return cls(float(near), float(far))

    def colours(self, depth: np.ndarray) -> np.ndarray:
        """Positive depth [...] -> RGB [..., 3] uint8: near is red, far is blue, evenly in 1 / depth."""
        width = max(1 / self.near - 1 / self.far, 1e-12)
        share = np.clip((1 / self.near - 1 / np.maximum(depth, 1e-12)) / width, 0, 1)
        return (NEAR_TO_FAR(share)[..., :3] * 255 + 0.5).astype(np.uint8)


def colour_depth(depth: np.ndarray, scale: DepthScale, is_dropped: np.ndarray | None = None) -> np.ndarray:
    """Depth [H, W] -> RGB [H, W, 3] uint8: sky is white, invalid black, what masks and limits take away grey.

    Sparse depth is drawn as dots of three pixels.
    """
    colour = scale.colours(depth)
    colour[depth == 0] = INVALID
    if is_dropped is not None:
        colour[is_dropped] = DROPPED
    if is_sparse(depth):
        dots = _dots(depth)
        colour = np.where((dots > 0)[..., None], scale.colours(dots), colour)
    colour[depth < 0] = SKY
    return colour


def overlay(image: np.ndarray, depth: np.ndarray, is_edge: np.ndarray, scale: DepthScale) -> np.ndarray:
    """Depth [H, W] and its edges [H, W] bool over the image [H, W, 3] uint8 -> RGB [H, W, 3] uint8.

    The image is grey, tinted by depth, with the edges of the depth as lines, which must follow the outlines in the
    image; sparse depth is drawn as dots on the image.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, -1)
    if is_sparse(depth):
        dots = _dots(depth)
        return np.where((dots > 0)[..., None], scale.colours(dots), grey)
    tinted = cv2.addWeighted(grey, 1 - TINT, colour_depth(depth, scale), TINT, 0)
    mixed = np.where((depth == 0)[..., None], grey, tinted)
    mixed[is_edge] = EDGE
    return mixed


def is_sparse(depth: np.ndarray) -> bool:
    """Whether most pixels of a depth map have none, as when it is projected from a laser scanner."""
    return bool((depth != 0).mean() < SPARSE_SHARE)


def _dots(depth: np.ndarray) -> np.ndarray:
    """Sparse depth with each value spread over its neighbours, the nearest one winning; 0 elsewhere."""
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0).astype(np.float32)
    spread = cv2.dilate(inverse, DOT)
    return np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
