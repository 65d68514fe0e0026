"""Scale from the height of the camera above the ground that it sees.

Assumed: cameras are held upright (their x axis is level on the whole), the ground in front of them is near a plane, and
of the level planes in a view it is the lowest that holds a fair part of the points below the horizon. A plane u . x = 1
in the camera's frame has height 1 / |u|; a point fits it when u . x is 1 up to `TOLERANCE`, whatever its distance: a
relative error of depth moves it by as much. Each view gives a height; views without such a plane give none, and the
median of the others stands for the height that the user states. Shapes: S frames, P points.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import unproject

MAX_FRAMES = 200  # looked at, evenly spread over the video
MAX_POINTS = 2000  # of a frame
NUM_TRIALS = 100
NUM_REFITS = 3
MAX_TILT_DEG = 20.0  # between the plane's normal and gravity as the cameras show it
TOLERANCE = 0.05  # of the height
MIN_SHARE = 0.2  # of the points below the horizon that the ground has to hold
MIN_FRAMES = 5
MIN_POINTS = 50


def down_in_world(world_from_cam: Tensor) -> Tensor:
    """Return the direction [3] that points down in the world of cameras [S, 3, 4] that are held upright.

    It is as square as can be to their x axes, and in doubt (a straight drive) near their mean y axis.
    """
    x_axes, y_axes = world_from_cam[:, :, 0], world_from_cam[:, :, 1]
    mean = y_axes.mean(dim=0)
    mean = mean / mean.norm().clamp(min=1e-12)
    # Minimise sum (x . d)^2 / S + 0.01 |d - mean|^2: the second part is small, and decides where the first cannot.
    matrix = x_axes.T @ x_axes / len(x_axes) + 0.01 * torch.eye(3, dtype=torch.float64)
    down = torch.linalg.solve(matrix, 0.01 * mean)
    return down / down.norm().clamp(min=1e-12)


def ground_height(depth: Tensor, usable: Tensor, intrinsics: Tensor, down: Tensor, seed: int) -> float | None:
    """Return the camera's height above the ground of one view, in the units of depth; None where none is seen.

    Args:
        depth: [H, W] z-depth.
        usable: [H, W] bool.
        intrinsics: [3, 3] in pixels of depth.
        down: [3] gravity in the camera's frame.
        seed: of the trials.
    """
    points = unproject(depth.double(), intrinsics.double())[usable].numpy()
    gravity = down.double().numpy()
    points = points[points @ gravity > 0]
    if len(points) < MIN_POINTS:
        return None
    random = np.random.default_rng(seed)
    if len(points) > MAX_POINTS:
        points = points[random.choice(len(points), MAX_POINTS, replace=False)]
    least = max(MIN_SHARE * len(points), 3)
    below = points
    while len(below) >= least:
        plane = _best_plane(below, gravity, random)
        if plane is None:
            return None
        height = points @ plane
        inliers = np.abs(height - 1) < TOLERANCE
        below = points[height > 1 + 2 * TOLERANCE]
        if inliers.sum() >= least and len(below) < least:
            return float(np.median(points[inliers] @ plane) / np.linalg.norm(plane))
    return None


def _best_plane(points: np.ndarray, gravity: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """Return u [3] of the level plane u . x = 1 that holds most of some points [P, 3]; None without any."""
    triples = points[random.integers(0, len(points), (NUM_TRIALS, 3))]
    is_plane = np.abs(np.linalg.det(triples)) > 1e-9 * np.abs(triples).max() ** 3
    planes = np.linalg.solve(triples[is_plane], np.ones((int(is_plane.sum()), 3, 1)))[..., 0]
    planes = planes[_is_level(planes, gravity)]
    if not len(planes):
        return None
    plane = planes[(np.abs(planes @ points.T - 1) < TOLERANCE).sum(axis=1).argmax()]
    for _ in range(NUM_REFITS):
        inliers = points[np.abs(points @ plane - 1) < TOLERANCE]
        refit = np.linalg.lstsq(inliers, np.ones(len(inliers)), rcond=None)[0]
        if not _is_level(refit[None], gravity)[0]:
            break
        plane = refit
    return np.asarray(plane)


def _is_level(planes: np.ndarray, gravity: np.ndarray) -> np.ndarray:
    cosine = planes @ gravity / np.linalg.norm(planes, axis=1).clip(min=1e-300)
    return np.asarray(cosine > np.cos(np.radians(MAX_TILT_DEG)))


def looked_at(num_frames: int) -> range:
    """Return the frames of a video whose ground is looked for."""
    return range(0, num_frames, max(1, -(-num_frames // MAX_FRAMES)))
