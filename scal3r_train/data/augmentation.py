"""Augmentation of a window of training frames: zoom and colours, drawn from the window's seed alone.

All ranks that share a window draw the same. The zoom is one for all frames, so that it reads as another lens; it moves
the intrinsics (`ResizeAndCrop.around`). A colour change is affine, y = M x + t on 0..255: brightness, contrast and
white balance (a gain and an offset per channel), saturation, and at times no colour at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pydantic import Field

from scal3r_train.config import StrictModel

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
MIDDLE = 127.5
FULL = 255.0


class AugmentationSettings(StrictModel):
    """The `data.augmentation` section of a training recipe; the defaults change nothing."""

    max_zoom: float = Field(
        default=1.0,
        ge=1,
        le=4,
        description="windows are magnified by a factor between 1 and this, cropped [factor]",
    )
    colour_jitter: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="relative change of brightness, contrast, balance and saturation [share]",
    )
    per_frame_probability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of windows whose frames change colour each on their own [share]",
    )
    grey_probability: float = Field(
        default=0.0, ge=0, le=1, description="share of windows without colour [share]"
    )


@dataclass(frozen=True)
class WindowLook:
    """The draws of one window.

    Attributes:
        zoom: magnification, at least 1.
    """

    zoom: float
    _settings: AugmentationSettings
    _seed: int
    _is_per_frame: bool
    _is_grey: bool

    @classmethod
    def draw(cls, settings: AugmentationSettings, seed: int) -> WindowLook:
        """Return the look of the window with this seed."""
        zoom, per_frame, grey = np.random.default_rng([seed, 0]).random(3)
        return cls(
            zoom=float(settings.max_zoom**zoom),
            _settings=settings,
            _seed=seed,
            _is_per_frame=bool(per_frame < settings.per_frame_probability),
            _is_grey=bool(grey < settings.grey_probability),
        )

    def coloured(self, image: np.ndarray, frame: int) -> np.ndarray:
        """Image [H, W, 3] uint8 of a frame of the sequence in the window's colours, clipped to 0..255."""
        if self._settings.colour_jitter == 0 and not self._is_grey:
            return image
        return cv2.transform(image, self._map(frame))

    def _map(self, frame: int) -> np.ndarray:
        """M and t as [3, 4]."""
        strength = self._settings.colour_jitter
        rng = np.random.default_rng([self._seed, 1 + frame if self._is_per_frame else 0, 1])
        draws = rng.uniform(-strength, strength, 7)
        gain, offset = 1 + draws[:3], 0.5 * draws[3:6]
        saturation = 0.0 if self._is_grey else 1 + draws[6]
        mixed = saturation * np.eye(3) + (1 - saturation) * LUMA
        return np.column_stack([gain[:, None] * mixed, MIDDLE * (1 - gain) + FULL * offset])
