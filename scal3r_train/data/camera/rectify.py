"""Undoing lens distortion: the pinhole camera that a distorted image is resampled to, and the resampling.

The pinhole camera keeps the image's size and principal point. Its focal lengths are those of the file, multiplied by
the smallest zoom >= 1 at which every pixel has a source, so nothing is made up at the borders. Images are sampled
bilinearly, depth and masks take the nearest value. Shapes: H W pixels of the image or of a depth map of the same view.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import distort

MAX_ZOOM = 8.0
ZOOM_STEPS = 30
STEP = 1e-4
NUM_CACHED_CAMERAS = 4096
NUM_CACHED_MAPS = 4  # of 6 bytes a pixel, bounded: a mixture meets many cameras

Intrinsics = tuple[float, float, float, float]


@dataclass(frozen=True)
class DistortedCamera:
    """A camera with a lens.

    Attributes:
        model: one of camera_model.CAMERA_MODELS.
        intrinsics: fx fy cx cy of the image file, pixel centres at half integers.
        coefficients: of the model.
        image_hw: size of the image file.
    """

    model: str
    intrinsics: Intrinsics
    coefficients: tuple[float, ...]
    image_hw: tuple[int, int]


def undistorted(image: np.ndarray, camera: DistortedCamera) -> np.ndarray:
    """Image [H, W, C] as the pinhole camera would have seen it."""
    source = _source(camera, (image.shape[0], image.shape[1]), is_nearest=False)
    return cv2.remap(image, *source, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def undistorted_nearest(values: np.ndarray, camera: DistortedCamera) -> np.ndarray:
    """Depth [H, W] of any resolution, of the pinhole camera; values are never mixed, 0 where there is no source."""
    source = _source(camera, (values.shape[0], values.shape[1]), is_nearest=True)
    return cv2.remap(values, *source, interpolation=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=NUM_CACHED_CAMERAS)
def pinhole_intrinsics(camera: DistortedCamera) -> Intrinsics:
    """Return fx fy cx cy of the pinhole camera, pixel centres at half integers."""
    fx, fy, cx, cy = camera.intrinsics
    zoom = smallest_zoom(camera)
    return fx * zoom, fy * zoom, cx, cy


@lru_cache(maxsize=NUM_CACHED_MAPS)
def _source(
    camera: DistortedCamera, values_hw: tuple[int, int], *, is_nearest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return where each pixel of the pinhole camera comes from, in the form that OpenCV is fastest with."""
    fx, fy, cx, cy = camera.intrinsics
    pinhole_fx, pinhole_fy, _, _ = pinhole_intrinsics(camera)
    scale_y, scale_x = values_hw[0] / camera.image_hw[0], values_hw[1] / camera.image_hw[1]
    x = ((np.arange(values_hw[1]) + 0.5) / scale_x - cx) / pinhole_fx
    y = ((np.arange(values_hw[0]) + 0.5) / scale_y - cy) / pinhole_fy
    bent = distort(np.stack(np.meshgrid(x, y), -1), camera.model, np.array(camera.coefficients))
    column = (bent[..., 0] * fx + cx) * scale_x - 0.5  # OpenCV puts pixel centres at integers
    row = (bent[..., 1] * fy + cy) * scale_y - 0.5
    maps = column.astype(np.float32), row.astype(np.float32)
    return cv2.convertMaps(*maps, cv2.CV_16SC2, nninterpolation=is_nearest)


def smallest_zoom(camera: DistortedCamera) -> float:
    """Return the smallest zoom >= 1 at which all pixels on the border of the pinhole image lie in the source.

    Raises UserError when there is none up to MAX_ZOOM.
    """
    fx, fy, cx, cy = camera.intrinsics
    height, width = camera.image_hw
    coefficients = np.array(camera.coefficients)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    border = np.concatenate(
        [np.stack([columns, np.full(width, row)], -1) for row in (rows[0], rows[-1])]
        + [np.stack([np.full(height, column), rows], -1) for column in (columns[0], columns[-1])]
    )
    plane = (border - [cx, cy]) / [fx, fy]

    def is_inside(zoom: float) -> bool:
        """Whether all borders come from inside the image, and not from beyond where the lens model folds back."""
        rays = plane / zoom
        bent = distort(rays, camera.model, coefficients)
        outward = ((distort(rays * (1 + STEP), camera.model, coefficients) - bent) * rays).sum(-1)
        pixels = bent * [fx, fy] + [cx, cy]
        return bool(((pixels >= 0) & (pixels <= [width, height])).all() and (outward > 0).all())

    low, high = 1.0, MAX_ZOOM
    if is_inside(low):
        return low
    if not is_inside(high):
        raise UserError(
            f"the lens {camera.model} {camera.coefficients} of {width}x{height} images with fx fy cx cy "
            f"{camera.intrinsics} cannot be undone; check the distortion of the index"
        )
    for _ in range(ZOOM_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_inside(middle) else (middle, high)
    return high
