"""How well cameras fit what was matched between their images, in pixels; measured alike before and after refining.

Two measures. *Epipolar*: of every verified match, the distance to the other's epipolar line (Sampson's approximation,
Hartley and Zisserman, section 11.4.3); no point in space is needed, and the cameras had no say in which matches count.
*Reprojection*: of every observation of a track, with the points placed anew so that they fit the cameras best; the same
tracks for all cameras. Shapes: S frames, M matches, T tracks, O observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_ROUNDS = 15
LOSS_SCALE = 2.0  # pixels, beyond which an observation pulls ever less (Cauchy)


@dataclass(frozen=True, eq=False)
class Pinholes:
    """Cameras.

    Attributes:
        cam_from_world: [S, 3, 4].
        intrinsics: [S, 4] fx fy cx cy.
    """

    cam_from_world: np.ndarray
    intrinsics: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Camera centres [S, 3]."""
        return -np.einsum("sji,sj->si", self.cam_from_world[:, :, :3], self.cam_from_world[:, :, 3])


@dataclass(frozen=True, eq=False)
class Tracks:
    """Where points were seen.

    Attributes:
        points: [T, 3] about where they are in the world.
        track: [O] of each observation.
        frame: [O] that it is from.
        pixels: [O, 2].
    """

    points: np.ndarray
    track: np.ndarray
    frame: np.ndarray
    pixels: np.ndarray


def epipolar_errors(cameras: Pinholes, frames: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """Return [M] pixels for matches [M, 4] (x, y in the first frame, x, y in the second) between two frames."""
    first, second = frames
    rotation = cameras.cam_from_world[second, :, :3] @ cameras.cam_from_world[first, :, :3].T
    t = cameras.cam_from_world[second, :, 3] - rotation @ cameras.cam_from_world[first, :, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    inverse = [_inverse_matrix(cameras.intrinsics[frame]) for frame in frames]
    fundamental = inverse[1].T @ cross @ rotation @ inverse[0]
    ones = np.ones((len(pixels), 1))
    x, y = np.hstack([pixels[:, :2], ones]), np.hstack([pixels[:, 2:], ones])
    line_y, line_x = x @ fundamental.T, y @ fundamental
    norm = np.sqrt(np.square(line_y[:, :2]).sum(1) + np.square(line_x[:, :2]).sum(1))
    return np.abs((y * line_y).sum(1)) / np.maximum(norm, 1e-300)


def reprojection_errors(cameras: Pinholes, tracks: Tracks) -> np.ndarray:
    """Return [O] pixels between observations and projections of the points that fit these cameras best.

    Points are moved by damped Gauss-Newton steps on a robust sum of squares; what ends up behind a camera counts inf.
    """
    points = tracks.points.astype(np.float64).copy()
    error, jacobian = _residuals(cameras, tracks, points)
    cost = _cost(error, tracks, len(points))
    damping = np.full(len(points), 1e-3)
    for _ in range(NUM_ROUNDS):
        weight = 1 / (1 + np.square(error).sum(1) / LOSS_SCALE**2)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        known = np.where(weight[:, None] > 0, error, 0.0)
        jacobian = np.where(weight[:, None, None] > 0, jacobian, 0.0)
        hessian = _summed(np.einsum("o,oki,okj->oij", weight, jacobian, jacobian), tracks.track, len(points))
        gradient = _summed(np.einsum("o,oki,ok->oi", weight, jacobian, known), tracks.track, len(points))
        diagonal = np.einsum("tii->ti", hessian)
        added = np.zeros_like(hessian)
        np.einsum("tii->ti", added)[:] = (
            damping[:, None] * diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-30
        )
        step = np.linalg.solve(hessian + added, gradient[..., None])[..., 0]
        moved = points - step
        new_error, new_jacobian = _residuals(cameras, tracks, moved)
        new_cost = _cost(new_error, tracks, len(points))
        better = new_cost < cost
        points[better], cost = moved[better], np.where(better, new_cost, cost)
        damping = np.where(better, damping / 5, damping * 10)
        taken = better[tracks.track]
        error = np.where(taken[:, None], new_error, error)
        jacobian = np.where(taken[:, None, None], new_jacobian, jacobian)
    return np.linalg.norm(error, axis=1)


def _residuals(cameras: Pinholes, tracks: Tracks, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return projection minus observation [O, 2], and its derivative by the point [O, 2, 3]."""
    pose, intrinsics = cameras.cam_from_world[tracks.frame], cameras.intrinsics[tracks.frame]
    local = np.einsum("oij,oj->oi", pose[:, :, :3], points[tracks.track]) + pose[:, :, 3]
    z = np.where(local[:, 2] > 0, local[:, 2], np.nan)[:, None]
    flat = local[:, :2] / z
    error = flat * intrinsics[:, :2] + intrinsics[:, 2:] - tracks.pixels
    by_local = np.zeros((len(local), 2, 3))
    by_local[:, [0, 1], [0, 1]] = intrinsics[:, :2] / z
    by_local[:, :, 2] = -flat * intrinsics[:, :2] / z
    return np.nan_to_num(error, nan=np.inf), np.nan_to_num(by_local @ pose[:, :, :3])


def _cost(error: np.ndarray, tracks: Tracks, num: int) -> np.ndarray:
    terms = np.log1p(np.square(error).sum(1) / LOSS_SCALE**2)
    return np.bincount(tracks.track, terms, num)


def _summed(values: np.ndarray, track: np.ndarray, num: int) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    columns = [np.bincount(track, column, num) for column in flat.T]
    return np.stack(columns, axis=-1).reshape(num, *values.shape[1:])


def _inverse_matrix(intrinsics: np.ndarray) -> np.ndarray:
    fx, fy, cx, cy = intrinsics
    return np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1]])
