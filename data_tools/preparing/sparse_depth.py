"""Depth of one image from a point cloud: nearest point in each pixel, without those that something hides.

A cloud has holes, through which a camera would see what is behind. A pixel's point p is hidden if, seen from it,
neighbours lie towards the camera on all sides: in each of the four quadrants of a window around the pixel the largest
cosine between the directions to a neighbour's point and to the camera is taken, and their sum says how enclosed p is
(4: entirely; below 2 on a plane, whatever its slant, since opposite neighbours cancel). Neighbours in the pixel's own
row and column are left out: points lie anywhere in their pixels, so on a slanted plane those beside one seem nearer or
farther by chance. After Pintus, Gobbetti and Agus, "Real-time rendering of massive unstructured raw point clouds using
screen-space operators", VAST 2011.
Shapes: P points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from scal3r_train.data.camera_model import distort

MIN_DEPTH_M = 0.1
MAX_TANGENT = 4.0  # beyond 76 degrees a fisheye's polynomial may turn back into the image
CLOSE_TO_ZERO = 1e-9


@dataclass(frozen=True)
class Projection:
    """A camera that points are drawn into.

    Attributes:
        model: a camera_model.CAMERA_MODELS.
        intrinsics: fx fy cx cy, pixel centres at half integers.
        coefficients: of the lens.
        image_hw: size in pixels.
        max_depth: metres.
    """

    model: str
    intrinsics: np.ndarray
    coefficients: np.ndarray
    image_hw: tuple[int, int]
    max_depth: float


def drawn_points(pieces: Iterable[np.ndarray], cam_from_world: np.ndarray, camera: Projection) -> np.ndarray:
    """Nearest point in each pixel [H, W, 3] float32, in the camera's frame, zero where there is none.

    pieces: points [P, 3] in the world; cam_from_world: [3, 4].
    """
    height, width = camera.image_hw
    nearest = np.zeros((height * width, 3), np.float32)
    for piece in pieces:
        points = piece.astype(np.float64) @ cam_from_world[:, :3].T + cam_from_world[:, 3]
        z = points[:, 2]
        in_front = (z > MIN_DEPTH_M) & (z <= camera.max_depth)
        in_front &= (np.abs(points[:, :2]) < MAX_TANGENT * z[:, None]).all(1)
        points = points[in_front]
        plane = distort(points[:, :2] / points[:, 2:], camera.model, camera.coefficients)
        column, row = np.floor(plane * camera.intrinsics[:2] + camera.intrinsics[2:]).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        points, pixel = points[inside], row[inside] * width + column[inside]
        known = nearest[pixel, 2]
        is_nearer = (known == 0) | (points[:, 2] < known)
        points, pixel = points[is_nearer], pixel[is_nearer]
        order = np.argsort(
            -points[:, 2], kind="stable"
        )  # of several in a pixel the nearest comes last and stays
        nearest[pixel[order]] = points[order]
    return nearest.reshape(height, width, 3)


def enclosure(points: np.ndarray, radius: int) -> np.ndarray:
    """How enclosed each pixel's point is, [H, W] float32 in -4 .. 4.

    points: [H, W, 3] in the camera's frame, zero where there is none; radius: of the window, in pixels. A quadrant
    without points counts -1.
    """
    height, width = points.shape[:2]
    distance = np.linalg.norm(points, axis=-1)
    to_camera = -points / np.maximum(distance, CLOSE_TO_ZERO)[..., None]
    largest = np.full((4, height, width), -1, np.float32)
    for down, right, quadrant in _window(radius):
        here = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
        there = slice(max(down, 0), height - max(-down, 0)), slice(max(right, 0), width - max(-right, 0))
        towards = points[there] - points[here]
        length = np.linalg.norm(towards, axis=-1)
        cosine = (towards * to_camera[here]).sum(-1) / np.maximum(length, CLOSE_TO_ZERO)
        cosine[(distance[there] == 0) | (distance[here] == 0)] = -1
        np.maximum(largest[quadrant][here], cosine, out=largest[quadrant][here])
    return largest.sum(0)


def visible_depth(points: np.ndarray, radius: int, max_enclosure: float) -> np.ndarray:
    """z-depth [H, W] float32, 0 where there is no point or something hides it. Arguments as of `enclosure`."""
    is_visible = enclosure(points, radius) < max_enclosure
    return np.where(is_visible, points[..., 2], np.float32(0))


def _window(radius: int) -> Iterator[tuple[int, int, int]]:
    """Offsets down and right of all neighbours that are in a quadrant, and which one."""
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down and right:
                yield down, right, 2 * (down > 0) + (right > 0)
