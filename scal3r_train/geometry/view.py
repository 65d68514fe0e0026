"""Cameras seen from above or the side, in a world whose up is unknown. Shapes: S frames, N points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROLL_FREE = 0.02  # how much less than certain it is that cameras are held level


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
