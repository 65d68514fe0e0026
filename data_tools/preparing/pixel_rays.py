"""Directions of the rays through the pixels of a camera with a lens: the inverse of `camera_model.distort`.

Newton's method on the plane z = 1. Shapes: H W pixels, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.camera_model import distort
from scal3r_train.data.rectify import DistortedCamera

NUM_STEPS = 40
STEP_LIMIT = 0.5  # of the distance from the axis
DIFFERENCE = 1e-6
CONVERGED = 1e-9
MAX_TANGENT = 20.0  # rays farther from the axis are as good as sideways
MAX_START_ANGLE = 1.45


@dataclass(frozen=True)
class PixelRays:
    """Rays of all pixels.

    Attributes:
        camera: whose pixels they are.
        plane: [H, W, 2] float64, (x / z, y / z) of the ray through each pixel's centre; NaN where the lens has none.
    """

    camera: DistortedCamera
    plane: np.ndarray

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Where the lens puts points [N, 2] of the plane z = 1, in pixels with centres at half integers."""
        fx, fy, cx, cy = self.camera.intrinsics
        return distort(points, self.camera.model, np.array(self.camera.coefficients)) * [fx, fy] + [cx, cy]


def pixel_rays(camera: DistortedCamera) -> PixelRays:
    """Return the rays of a camera."""
    fx, fy, cx, cy = camera.intrinsics
    height, width = camera.image_hw
    x, y = np.meshgrid((np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy)
    target = np.stack([x, y], -1).reshape(-1, 2)
    plane = target if camera.model == "pinhole" else _undistorted(target, camera)
    return PixelRays(camera, plane.reshape(height, width, 2))


def _undistorted(target: np.ndarray, camera: DistortedCamera) -> np.ndarray:
    """Points [N, 2] that the lens moves to `target`, NaN where none is found."""
    coefficients = np.array(camera.coefficients)

    def bend(points: np.ndarray) -> np.ndarray:
        return distort(points, camera.model, coefficients)

    points = _start(target, camera.model)
    for _ in range(NUM_STEPS):
        error = bend(points) - target
        if np.abs(error).max() < CONVERGED:
            break
        step = DIFFERENCE * (1 + np.abs(points).max(-1, keepdims=True))
        along_x, along_y = (
            (bend(points + step * axis) - bend(points - step * axis)) / (2 * step)
            for axis in ([1.0, 0], [0, 1.0])
        )
        determinant = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
        determinant = np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)
        across = error[:, 0] * along_y[:, 1] - error[:, 1] * along_y[:, 0]
        down = error[:, 1] * along_x[:, 0] - error[:, 0] * along_x[:, 1]
        move = np.stack([across, down], -1) / determinant[:, None]
        length, limit = np.linalg.norm(move, axis=-1), STEP_LIMIT * (1 + np.linalg.norm(points, axis=-1))
        points = points - move * np.minimum(1, limit / np.maximum(length, 1e-12))[:, None]
    error, radius = np.abs(bend(points) - target).max(-1), np.linalg.norm(points, axis=-1)
    good = (error < 1e-6) & (radius < MAX_TANGENT)
    return np.where(good[:, None], points, np.nan)


def _start(target: np.ndarray, model: str) -> np.ndarray:
    if model == "opencv":
        return target.copy()
    angle = np.linalg.norm(
        target, axis=-1, keepdims=True
    )  # a fisheye's distance from the centre is about the angle
    return target * np.where(
        angle > 1e-9, np.tan(np.minimum(angle, MAX_START_ANGLE)) / np.maximum(angle, 1e-9), 1.0
    )
