"""The closed line that is driven, and the road under it. Shapes: N points of a line, T triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

STEP_M = 1.0
SMOOTHING_M = 4.0
ROOM_M = 1.5
POINTS_AT_ONCE = 48
UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Route:
    """A closed line over the road, in driving direction, a point about every STEP_M.

    Attributes:
        points: [N, 3] on the road, metres, y up.
        right: [N, 3] unit vectors to the right, in the plane of the road.
        width: of the road, metres.
    """

    points: np.ndarray
    right: np.ndarray
    width: float

    @property
    def length(self) -> float:
        """Of one lap, metres."""
        return float(_steps(self.points).sum())

    def reversed(self) -> Route:
        """The same line driven the other way."""
        return Route(self.points[::-1], -self.right[::-1], self.width)

    def smoothed(self) -> Route:
        """The line that a car takes: without the corners of the mesh."""
        points = gaussian_filter1d(self.points, SMOOTHING_M, axis=0, mode="wrap")
        right = gaussian_filter1d(self.right, SMOOTHING_M, axis=0, mode="wrap")
        return Route(points, right / np.linalg.norm(right, axis=1, keepdims=True), self.width)


def resampled(points: np.ndarray, step: float) -> np.ndarray:
    """Points [M, D] of a closed line, equally spaced by about `step` along its first three (or two) coordinates."""
    num_axes = min(3, points.shape[1])
    closed = np.concatenate([points, points[:1]])
    lengths = np.linalg.norm(np.diff(closed[:, :num_axes], axis=0), axis=1)
    keep = np.concatenate([[True], lengths > 1e-6])
    keep[-1] = True
    if lengths[-1] <= 1e-6:  # the last point is the first one again
        keep[-2] = len(points) == 1
    closed = closed[keep]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed[:, :num_axes], axis=0), axis=1))])
    num = max(4, round(along[-1] / step))
    at = np.arange(num) * along[-1] / num
    return np.stack([np.interp(at, along, column) for column in closed.T], 1)


def horizontal_right(points: np.ndarray) -> np.ndarray:
    """Unit vectors [N, 3] to the right of a closed line, level."""
    forward = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    right = np.cross(forward, UP)
    return right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-12)


def heights_below(points: np.ndarray, triangles: np.ndarray) -> list[np.ndarray]:
    """Heights where vertical lines through points [N, 2] (x, z) meet triangles [T, 3, 3], ascending, one array each."""
    plan = triangles[..., [0, 2]]
    low, high = plan.min(1), plan.max(1)
    heights = []
    for start in range(0, len(points), POINTS_AT_ONCE):
        some = points[start : start + POINTS_AT_ONCE]
        near = ((low <= some.max(0)) & (high >= some.min(0))).all(1)
        heights += _hits(some, triangles[near])
    return heights


def _hits(points: np.ndarray, triangles: np.ndarray) -> list[np.ndarray]:
    a, b, c = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = b[:, 0] * c[:, 2] - b[:, 2] * c[:, 0]
    flat = np.abs(area) > 1e-9
    a, b, c, area = a[flat], b[flat], c[flat], area[flat]
    x, z = points[:, :1] - a[:, 0], points[:, 1:] - a[:, 2]
    u = (x * c[:, 2] - z * c[:, 0]) / area
    v = (z * b[:, 0] - x * b[:, 2]) / area
    inside = (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6)
    height = a[:, 1] + u * b[:, 1] + v * c[:, 1]
    return [np.sort(row[hit]) for row, hit in zip(height, inside, strict=True)]


def with_room(heights: np.ndarray) -> np.ndarray:
    """Those of ascending heights above which a car has room: not the meadow that goes on below a road."""
    return heights[np.append(np.diff(heights) >= ROOM_M, True)] if len(heights) else heights


def steadiest(candidates: list[np.ndarray]) -> np.ndarray:
    """Choose of each point's candidate heights one, [N], so that the sum of all changes of height is least.

    Of equally steady ones the lower is taken: bridges over the road go up and down at their ends. Points without any
    candidate are interpolated. Raises ValueError when no point has one.
    """
    known = [i for i, heights in enumerate(candidates) if len(heights)]
    if not known:
        raise ValueError("there is no surface below the line")
    prefer_low = 1e-3
    cost = prefer_low * np.arange(len(candidates[known[0]]))
    back = []
    for before, now in zip(known[:-1], known[1:], strict=True):
        total = cost[None] + np.abs(candidates[now][:, None] - candidates[before][None])
        back.append(total.argmin(1))
        cost = total.min(1) + prefer_low * np.arange(len(candidates[now]))
    choice = [int(cost.argmin())]
    for best in reversed(back):
        choice.append(int(best[choice[-1]]))
    chosen = [candidates[i][k] for i, k in zip(known, reversed(choice), strict=True)]
    return np.interp(np.arange(len(candidates)), known, chosen, period=len(candidates))


def banked(points: np.ndarray, triangles: np.ndarray, width: float) -> np.ndarray:
    """Unit vectors [N, 3] to the right of a closed line on a road, as the road is banked a quarter width beside it.

    What is more than 45 degrees steep is no road.
    """
    right = horizontal_right(points)
    beside = width / 4
    rise = np.zeros(len(points))
    for side in (-1, 1):
        there = points + side * beside * right
        found = heights_below(there[:, [0, 2]], triangles)
        for i, heights in enumerate(found):
            if not len(heights):
                continue
            nearest = heights[np.abs(heights - points[i, 1]).argmin()] - points[i, 1]
            rise[i] += side * nearest / 2 if abs(nearest) <= beside else 0.0
    slope = gaussian_filter1d(rise / beside, SMOOTHING_M, mode="wrap")
    vectors = right + slope[:, None] * UP
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _steps(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.roll(points, -1, 0) - points, axis=1)
