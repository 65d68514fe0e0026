"""Do the depth maps of two frames agree? Points of one, moved into the other, must lie on what that one sees.

The error of a point is |z' - z| / z: z' its depth in the other camera, z the depth map there, bilinear, where the map
is one smooth piece. A pair's error is the median over points in both directions; occluded points are the minority.
Shapes: H W pixels, N points.
"""

from __future__ import annotations

import numpy as np

from scal3r_data_tools.checking.reading import Reading, rays, relative_poses, z_coordinates
from scal3r_data_tools.checking.views import DepthView

NUM_POINTS = 2000
MIN_OVERLAP = 0.1
MIN_POINTS = 50


def warp_errors(
    reading: Reading, views: dict[int, DepthView], pairs: list[tuple[int, int]], num_points: int = NUM_POINTS
) -> np.ndarray:
    """Return the median relative error [P] of pairs; NaN where too few points of one meet the other."""
    if not pairs:
        return np.zeros(0)
    array = np.array(pairs)
    forward = relative_poses(reading, array)
    backward = relative_poses(reading, array[:, ::-1])
    errors = np.full(len(pairs), np.nan)
    for row, (a, b) in enumerate(pairs):
        if a not in views or b not in views:
            continue
        found = [
            _point_errors(reading, views, (i, j), motion[0][row], motion[1][row], num_points)
            for (i, j), motion in (((a, b), forward), ((b, a), backward))
        ]
        both = np.concatenate(found)
        if np.isfinite(both).sum() >= max(MIN_OVERLAP * len(both), MIN_POINTS):
            errors[row] = np.nanmedian(both)
    return errors


def warp_error_map(reading: Reading, views: dict[int, DepthView], pair: tuple[int, int]) -> np.ndarray:
    """Return the signed relative error (z' - z) / z [H, W] at every entry of the first frame's depth; NaN: unknown."""
    rotation, translation = relative_poses(reading, np.array([pair]))
    view = views[pair[0]]
    pixels = view.pixels().reshape(-1, 2)
    numbers = view.sample(pixels, reading.depth.flip)
    errors = _signed_errors(reading, views, pair, rotation[0], translation[0], pixels, numbers)
    return errors.reshape(view.numbers.shape)


def _point_errors(
    reading: Reading,
    views: dict[int, DepthView],
    pair: tuple[int, int],
    rotation: np.ndarray,
    translation: np.ndarray,
    num_points: int,
) -> np.ndarray:
    """Errors [N] of points on a grid over the first frame; NaN where they meet nothing."""
    view = views[pair[0]]
    step = max(round((view.numbers.size / num_points) ** 0.5), 1)
    pixels = view.pixels()[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    numbers = view.sample(pixels, reading.depth.flip)
    usable = np.isfinite(numbers)
    return np.abs(
        _signed_errors(reading, views, pair, rotation, translation, pixels[usable], numbers[usable])
    )


def _signed_errors(
    reading: Reading,
    views: dict[int, DepthView],
    pair: tuple[int, int],
    rotation: np.ndarray,
    translation: np.ndarray,
    pixels: np.ndarray,
    numbers: np.ndarray,
) -> np.ndarray:
    k_a, k_b = reading.intrinsics[pair[0]], reading.intrinsics[pair[1]]
    z = z_coordinates(reading, np.array([pair[0]]), numbers[None], pixels[None])[0]
    moved = rays(pixels, k_a) * z[:, None] @ rotation.T + translation
    z = np.where(moved[:, 2] > 0, moved[:, 2], np.nan)
    there = moved[:, :2] / z[:, None] * k_b[:2] + k_b[2:]
    seen = views[pair[1]].sample(there, reading.depth.flip)
    expected = z_coordinates(reading, np.array([pair[1]]), seen[None], there[None])[0]
    return (z - expected) / expected
