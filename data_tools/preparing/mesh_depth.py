"""Depth of a triangle mesh in a camera with a lens: a z-buffer without a graphics card or display.

Each triangle is clipped at the near plane and divided until it covers few pixels; the pixels in its bounding box are
tested one by one against their own ray, so the lens is exact, and the nearest depth is kept. Both sides of a triangle
are seen. Rays are the inverse of `camera_model.distort`, by Newton's method on the plane z = 1. Lengths in metres.
Shapes: V vertices, F triangles, N pieces or points, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.camera.camera_model import distort
from scal3r_train.data.camera.rectify import DistortedCamera

NUM_STEPS = 40
STEP_LIMIT = 0.5  # of the distance from the axis
DIFFERENCE = 1e-6
CONVERGED = 1e-9
MAX_TANGENT = 20.0  # rays farther from the axis are as good as sideways
MAX_START_ANGLE = 1.45
NEAR_M, FAR_M = 0.05, 20.0
PIECE_PX = 16.0  # larger triangles are divided
MAX_DIVISIONS = 16
MIN_BULGE_PX = 0.01
TESTS_AT_ONCE = 1 << 20
TOUCHING = 1e-9  # of a triangle's area: neighbours may not leave a gap


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


def render_depth(
    vertices: np.ndarray,
    faces: np.ndarray,
    cam_from_world: np.ndarray,
    rays: PixelRays,
    near: float = NEAR_M,
    far: float = FAR_M,
) -> np.ndarray:
    """Return z [H, W] float32 of the nearest surface in each pixel, 0 where there is none between near and far.

    Args:
        vertices: [V, 3] in the world.
        faces: [F, 3] vertex numbers.
        cam_from_world: [3, 4].
        rays: of the camera.
        near, far: range of z.
    """
    seen = rays.plane[np.isfinite(rays.plane).all(-1)]
    focal = max(rays.camera.intrinsics[:2])
    margin = 2 * PIECE_PX / focal
    low, high = seen.min(0) - margin, seen.max(0) + margin
    points = vertices @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    triangles = _clipped(_in_range(points, faces, low, high, near, far), near)
    pieces = _small(triangles, low, high, PIECE_PX / focal)
    nearest = _nearest(pieces, rays, float(np.linalg.norm(seen, axis=-1).max()) + margin)
    return np.where(np.isfinite(nearest) & (nearest <= far), nearest, 0).astype(np.float32)


def _in_range(
    points: np.ndarray, faces: np.ndarray, low: np.ndarray, high: np.ndarray, near: float, far: float
) -> np.ndarray:
    """Triangles [N, 3, 3] that are not wholly beyond one side of the field of view."""
    x, y, z = points.T
    outside = [z < near, z > far, x < low[0] * z, x > high[0] * z, y < low[1] * z, y > high[1] * z]
    keep = np.ones(len(faces), bool)
    for side in outside:
        keep &= ~side[faces].all(1)
    return points[faces[keep]]


def _clipped(triangles: np.ndarray, near: float) -> np.ndarray:
    """Triangles [N, 3, 3] without what is nearer than `near`."""
    in_front = triangles[..., 2] >= near
    num = in_front.sum(1)
    parts = [triangles[num == 3]]
    for wanted in (1, 2):
        some, front = triangles[num == wanted], in_front[num == wanted]
        # the corner that is alone on its side comes first
        lone = np.argmax(front if wanted == 1 else ~front, axis=1)
        order = (lone[:, None] + np.arange(3)) % 3
        a, b, c = np.take_along_axis(some, order[..., None], 1).transpose(1, 0, 2)
        ab, ac = _at_depth(a, b, near), _at_depth(a, c, near)
        parts += (
            [np.stack([a, ab, ac], 1)] if wanted == 1 else [np.stack([ab, b, c], 1), np.stack([ab, c, ac], 1)]
        )
    return np.concatenate(parts)


def _at_depth(a: np.ndarray, b: np.ndarray, depth: float) -> np.ndarray:
    """Points [N, 3] between a and b whose z is `depth`."""
    share = (depth - a[:, 2]) / (b[:, 2] - a[:, 2])
    return a + share[:, None] * (b - a)


def _small(triangles: np.ndarray, low: np.ndarray, high: np.ndarray, size: float) -> np.ndarray:
    """Divide triangles [N, 3, 3] in front of the camera until each spans at most `size` on the plane z = 1."""
    done = []
    for _ in range(MAX_DIVISIONS):
        plane = triangles[..., :2] / triangles[..., 2:]
        least, most = plane.min(1), plane.max(1)
        inside = ((most >= low) & (least <= high)).all(1)
        is_small = ((most - least) <= size).all(1)
        done.append(triangles[inside & is_small])
        a, b, c = triangles[inside & ~is_small].transpose(1, 0, 2)
        if not len(a):
            break
        ab, bc, ca = _middle(a, b), _middle(b, c), _middle(c, a)
        corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
        triangles = np.concatenate([np.stack(corner, 1) for corner in corners])
    return np.concatenate(done)


def _middle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points [N, 3] of the segments a b that are seen half way between their ends."""
    z_a, z_b = a[:, 2:], b[:, 2:]
    return (a * z_b + b * z_a) / (z_a + z_b)


def _nearest(pieces: np.ndarray, rays: PixelRays, max_radius: float) -> np.ndarray:
    """Smallest z [H, W] of the pieces [N, 3, 3] over each pixel, inf where there is none."""
    height, width = rays.plane.shape[:2]
    nearest = np.full(height * width, np.inf)
    plane = pieces[..., :2] / pieces[..., 2:]
    radius = np.linalg.norm(plane, axis=-1, keepdims=True)
    # what the lens does far outside its field is anybody's guess
    corners = rays.pixels(
        (plane * np.minimum(1, max_radius / np.maximum(radius, 1e-12))).reshape(-1, 2)
    ).reshape(-1, 3, 2)
    least, most = corners.min(1), corners.max(1)
    # the lens bends edges out of the box of the corners, by s^2 / 8 r for a radius r of about the focal length
    bulge = ((most - least).max(1, keepdims=True) ** 2) / (4 * min(rays.camera.intrinsics[:2])) + MIN_BULGE_PX
    first = np.maximum(np.ceil(least - bulge - 0.5).astype(np.int64), 0)
    last = np.minimum(np.floor(most + bulge - 0.5).astype(np.int64), [width - 1, height - 1])
    sides = np.maximum(last - first + 1, 0)
    num_tests = np.cumsum(sides.prod(1))
    cuts = np.searchsorted(num_tests, np.arange(0, num_tests[-1] if len(num_tests) else 0, TESTS_AT_ONCE))
    for start, stop in zip(cuts, [*cuts[1:], len(pieces)], strict=True):
        part = slice(start, stop)
        _test(nearest, plane[part], pieces[part, :, 2], first[part], sides[part], rays)
    return nearest.reshape(height, width)


def _test(
    nearest: np.ndarray,
    plane: np.ndarray,
    z: np.ndarray,
    first: np.ndarray,
    sides: np.ndarray,
    rays: PixelRays,
) -> None:
    """Enter pieces into `nearest` [H * W].

    Args:
        nearest: smallest z so far.
        plane: [N, 3, 2] corners on the plane z = 1.
        z: [N, 3] of the corners.
        first: [N, 2] column and row of the box of pixels that a piece may cover.
        sides: [N, 2] width and height of that box.
        rays: of the camera.
    """
    counts = sides.prod(1)
    piece = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its box
    row, column = np.divmod(place, sides[piece, 0])
    row, column = row + first[piece, 1], column + first[piece, 0]
    corners = plane[piece] - rays.plane[row, column][:, None]
    a, b, c = corners.transpose(1, 0, 2)
    weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)])
    area = weights.sum(0)
    weights *= np.sign(area)
    hit = (weights >= -TOUCHING * np.abs(area)).all(0) & (area != 0)  # NaN rays hit nothing
    depth = np.abs(area[hit]) / (weights[:, hit] / z[piece[hit]].T).sum(0)
    np.minimum.at(nearest, row[hit] * rays.plane.shape[1] + column[hit], depth)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
