"""Points drawn as squares, the nearest in front: a small renderer for previews. Shapes: N points, H W pixels."""

from __future__ import annotations

import numpy as np

MAX_SIDE = 11
SHADE_STEP = 0.06  # of the distance, a step behind a neighbour that is drawn half as bright


def splat(
    pixels: np.ndarray, distance: np.ndarray, colours: np.ndarray, side: np.ndarray, hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points as squares around their places.

    Args:
        pixels: [N, 2] x, y in the image, pixel centres at half integers; those that are not finite are left out.
        distance: [N], the smallest one is seen; points at or behind 0 are left out.
        colours: [N, 3] uint8.
        side: [N] sides of the squares in pixels, rounded to 1..MAX_SIDE.
        hw: size of the image.

    Returns:
        The image [H, W, 3] uint8, black where there is nothing, and the distance of what is seen [H, W] float64, inf
        where there is nothing.
    """
    height, width = hw
    is_drawn = (distance > 0) & np.isfinite(pixels).all(-1) & np.isfinite(distance)
    is_drawn[is_drawn] &= (np.abs(pixels[is_drawn]) < 2 * max(hw) + MAX_SIDE).all(-1)  # fits into integers
    order = np.flatnonzero(is_drawn)
    order = order[
        np.argsort(-distance[order], kind="stable")
    ]  # of repeated places the last one, the nearest, stays
    distance, colours = distance[order], colours[order]
    side = np.clip(np.round(side[order]), 1, MAX_SIDE).astype(int)
    corner = np.round(pixels[order] - side[:, None] / 2).astype(int)
    nearest, seen = np.full(height * width, np.inf), np.full(height * width, -1)
    for row in range(int(side.max(initial=0))):
        for column in range(int(side.max(initial=0))):
            x, y = corner[:, 0] + column, corner[:, 1] + row
            inside = (side > max(row, column)) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            point = np.flatnonzero(inside)
            place = y[point] * width + x[point]
            is_nearer = distance[point] < nearest[place]
            point, place = point[is_nearer], place[is_nearer]
            nearest[place], seen[place] = distance[point], point
    nearest, seen = nearest.reshape(hw), seen.reshape(hw)
    image = np.zeros((*hw, 3), np.uint8)
    image[seen >= 0] = colours[seen[seen >= 0]]
    return image, nearest


def shaded(image: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Darken pixels of an image [H, W, 3] that lie behind their neighbours, which shows the shape of a cloud.

    distance: [H, W] as from `splat`; what is empty casts no shade.
    """
    behind = np.zeros(distance.shape)
    known = np.where(np.isfinite(distance), distance, 0)
    for axis in (0, 1):
        for shift in (-2, 2):
            neighbour = np.roll(known, shift, axis)
            step = np.where((neighbour > 0) & (known > 0), 1 - neighbour / np.maximum(known, 1e-12), 0)
            behind += np.clip(step, 0, SHADE_STEP) / 4
    return (image * (1 - 0.5 * behind / SHADE_STEP)[..., None]).astype(np.uint8)
