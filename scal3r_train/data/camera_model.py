"""How lenses bend rays: the camera models of an index, from an undistorted to a distorted image plane.

| camera_model | coefficients | source |
| --- | --- | --- |
| pinhole | none | |
| opencv | k1 k2 p1 p2 k3 k4 k5 k6, trailing ones may be left out | Brown-Conrady with a rational radial part (OpenCV) |
| opencv_fisheye | k1 k2 k3 k4 | Kannala-Brandt (OpenCV's cv2.fisheye) |
| thin_prism_fisheye | k1 k2 p1 p2 k3 k4 sx1 sy1 | COLMAP's model of that name (ETH3D) |
| fisheye624 | k0..k5 p0 p1 s0..s3 | Project Aria's FisheyeRadTanThinPrism |

All are followed by fx fy cx cy. COLMAP's SIMPLE_RADIAL, RADIAL, OPENCV and FULL_OPENCV are `opencv` with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MIN_RADIUS = 1e-9


def distort(xy: np.ndarray, model: str, coefficients: np.ndarray) -> np.ndarray:
    """Move points [..., 2] = (x / z, y / z) of the pinhole image plane to where the lens puts them, same shape."""
    if model == "pinhole":
        return xy
    num, function = MODELS[model]
    padded = np.zeros(num)
    padded[: len(coefficients)] = coefficients
    return np.stack(function(xy[..., 0], xy[..., 1], padded), -1)


def _opencv(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, k5, k6 = c
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _opencv_fisheye(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (c[0] + t2 * (c[1] + t2 * (c[2] + t2 * c[3])))
    return x * radial, y * radial


def _thin_prism_fisheye(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, sx1, sy1 = c
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (t2 + 2 * x * x) + sx1 * t2,
        y * radial + 2 * p2 * x * y + p1 * (t2 + 2 * y * y) + sy1 * t2,
    )


def _fisheye624(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = np.ones_like(t2)
    for place, k in enumerate(c[:6]):
        radial = radial + k * t2 ** (place + 1)
    x, y = x * radial, y * radial
    p0, p1, s0, s1, s2, s3 = c[6:]
    r2 = x * x + y * y
    along = 2 * (x * p0 + y * p1)
    return x + along * x + r2 * (p0 + s0 + s1 * r2), y + along * y + r2 * (p1 + s2 + s3 * r2)


def _equidistant(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points whose distance from the centre is the angle of the ray instead of its tangent."""
    radius = np.hypot(x, y)
    scale = np.where(radius > MIN_RADIUS, np.arctan(radius) / np.maximum(radius, MIN_RADIUS), 1.0)
    return x * scale, y * scale


Distortion = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
MODELS: dict[str, tuple[int, Distortion]] = {
    "opencv": (8, _opencv),
    "opencv_fisheye": (4, _opencv_fisheye),
    "thin_prism_fisheye": (8, _thin_prism_fisheye),
    "fisheye624": (12, _fisheye624),
}
CAMERA_MODELS = ("pinhole", *MODELS)
