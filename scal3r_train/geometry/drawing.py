"""A small renderer for previews: cameras and points seen from above or the side, points as squares.

The world's up is not known and is taken from the cameras, which are held upright. Shapes: S frames, N points, H W
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROLL_FREE = 0.02  # how much less than certain it is that cameras are held level
MAX_SIDE = 11
SHADE_STEP = 0.06  # of the distance, a step behind a neighbour that is drawn half as bright


@dataclass(frozen=True)
class View:
    """A look at the world: x to the right, y up the page; x, y, up are right-handed, so nothing is mirrored.

    Attributes:
        origin: [3] world point at (0, 0).
        up: [3] unit vector out of the page, towards the observer.
        axes: [2, 3] unit vectors x and y.
    """

    origin: np.ndarray
    up: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, cam_from_world: np.ndarray) -> View:
        """Return the look from above at upright cameras [S, 3, 4] with x along the largest spread, start to end."""
        position, up = positions(cam_from_world), up_direction(cam_from_world)
        flat = position - position.mean(0)
        flat = flat - np.outer(flat @ up, up)
        x_axis = np.linalg.svd(flat, full_matrices=False)[2][0]
        if np.linalg.norm(flat) < 1e-9:  # all at one place
            x_axis = cam_from_world[0, 0, :3]
        x_axis = x_axis - (x_axis @ up) * up
        x_axis = x_axis / max(float(np.linalg.norm(x_axis)), 1e-12)
        if (flat[-1] - flat[0]) @ x_axis < 0:
            x_axis = -x_axis
        return cls(position.mean(0), up, np.stack([x_axis, np.cross(up, x_axis)]))

    def from_side(self) -> View:
        """Return the same with the world's up as y."""
        return View(self.origin, -self.axes[1], np.stack([self.axes[0], self.up]))

    def places(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] -> [N, 2] in the view."""
        return (points - self.origin) @ self.axes.T

    def heights(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] -> [N], above the origin."""
        return (points - self.origin) @ self.up


def positions(cam_from_world: np.ndarray) -> np.ndarray:
    """Camera centres [S, 3] of poses [S, 3, 4]."""
    return -np.einsum("sji,sj->si", cam_from_world[:, :, :3], cam_from_world[:, :, 3])


def up_direction(cam_from_world: np.ndarray) -> np.ndarray:
    """World direction [3] that is up for most of some upright cameras [S, 3, 4].

    It is the mean of what is up in their images, corrected to be square to their x axes, since cameras are tilted much
    more than they are rolled.
    """
    rotation = cam_from_world[:, :, :3]
    x_axis, up = rotation[:, 0], -rotation[:, 1].mean(0)
    across = x_axis.T @ x_axis / len(x_axis)
    up = np.linalg.solve(across + ROLL_FREE * np.eye(3), up)
    return up / max(float(np.linalg.norm(up)), 1e-12)


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
