"""Smooth paths through a town and the camera that drives along them.

World: right-handed, metres, z up, ground at z = 0. Heading: radians from +x, counter-clockwise.
Shapes: M path points, spaced POINT_SPACING_M along the path; S frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.synthetic.settings import TownSettings

POINT_SPACING_M = 0.1
LEAD_IN_M = 12.0
LEAD_OUT_M = 60.0
MIN_LOOP_M = 60.0
LAPS = 1.08


@dataclass(frozen=True)
class TownPath:
    """A path sampled every POINT_SPACING_M and the frames on it.

    xy [M, 2] float64; heading [M] radians, continuous; is_closed: the last point meets the first;
    frame_arc [S] float64: distance along the path of every frame (beyond the length on a loop: next lap).
    """

    xy: np.ndarray
    heading: np.ndarray
    is_closed: bool
    frame_arc: np.ndarray

    @property
    def length(self) -> float:
        """Length of the path (one lap of a loop) in metres."""
        return len(self.xy) * POINT_SPACING_M

    def frame_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [S, 2] and heading [S] of the frames."""
        index = self.frame_arc / POINT_SPACING_M
        low = np.floor(index).astype(int)
        share = (index - low)[:, None]
        count = len(self.xy)
        a, b = (low % count, (low + 1) % count) if self.is_closed else (low, np.minimum(low + 1, count - 1))
        xy = self.xy[a] * (1 - share) + self.xy[b] * share
        turn = np.angle(np.exp(1j * (self.heading[b] - self.heading[a])))
        return xy, self.heading[a] + turn * share[:, 0]


def smooth_noise(rng: np.random.Generator, num: int, min_period: float, max_period: float) -> np.ndarray:
    """A smooth random signal [num] with values in about -1..1 and periods (in samples) in the given range."""
    period = rng.uniform(min_period, max_period, size=(4, 1))
    phase = rng.uniform(0, 2 * np.pi, size=(4, 1))
    return np.cos(2 * np.pi * np.arange(num) / period + phase).sum(0) / 2.5


def make_path(rng: np.random.Generator, settings: TownSettings, max_yaw: float) -> TownPath:
    """A random open or closed path with real turns, and the distance travelled at every frame.

    max_yaw: fastest turn in radians a frame; where the path bends more sharply the car drives more slowly.
    """
    mean_speed = rng.uniform(settings.min_speed_m, settings.max_speed_m)
    # drawn only if wanted, so that towns of before stay as they are
    if settings.steady_share > 0 and rng.random() < settings.steady_share:
        return _steady_path(rng, mean_speed, settings.num_frames, max_yaw)
    speed = mean_speed * (1 + 0.3 * smooth_noise(rng, settings.num_frames, 25, 70))
    speed = np.clip(speed, settings.min_speed_m, settings.max_speed_m)
    if rng.random() < settings.closed_share:
        return _closed_path(rng, speed, max_yaw)
    return _open_path(rng, speed, max_yaw)


def _open_path(rng: np.random.Generator, speed: np.ndarray, max_yaw: float) -> TownPath:
    """Straight pieces and turns of 35 to 120 degrees, eased in and out, with a slight weave throughout."""
    num = int((LEAD_IN_M + speed.sum() + LEAD_OUT_M) / POINT_SPACING_M)
    curvature = 0.012 * smooth_noise(rng, num, 150, 500)
    position = LEAD_IN_M + rng.uniform(0, 5)
    side = rng.choice([-1.0, 1.0])
    while position < num * POINT_SPACING_M:
        angle, radius = np.deg2rad(rng.uniform(35, 120)), rng.uniform(4.5, 12)
        length = 2 * angle * radius  # a raised cosine of height 1 / radius turns by length / (2 radius)
        start, count = int(position / POINT_SPACING_M), int(length / POINT_SPACING_M)
        bump = side / radius * 0.5 * (1 - np.cos(2 * np.pi * np.arange(count) / count))
        part = curvature[start : start + count]
        part += bump[: len(part)]
        position += length + rng.uniform(1, 12)
        side = -side if rng.random() < 0.65 else side
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(curvature) * POINT_SPACING_M
    steps = np.stack([np.cos(heading), np.sin(heading)], -1) * POINT_SPACING_M
    frame_arc = LEAD_IN_M + _drive(curvature, speed, max_yaw, LEAD_IN_M, is_closed=False)
    return TownPath(np.cumsum(steps, 0), heading, False, frame_arc)


def _steady_path(rng: np.random.Generator, speed: float, num_frames: int, max_yaw: float) -> TownPath:
    """One arc, or a circle driven round and round where it closes, at one speed; the turn is anything up to max_yaw."""
    turn = rng.uniform(-max_yaw, max_yaw)
    driven = np.arange(num_frames) * speed
    lap = 2 * np.pi * speed / max(abs(turn), 1e-9)
    is_closed = driven[-1] + LEAD_IN_M + LEAD_OUT_M > lap
    length = lap if is_closed else LEAD_IN_M + driven[-1] + LEAD_OUT_M
    num = round(length / POINT_SPACING_M)
    # a circle of a whole number of points: its turn differs from the drawn one by less than one part in num
    curvature = np.sign(turn) * 2 * np.pi / (num * POINT_SPACING_M) if is_closed else turn / speed
    heading = rng.uniform(0, 2 * np.pi) + (np.arange(num) + 0.5) * curvature * POINT_SPACING_M
    steps = np.stack([np.cos(heading), np.sin(heading)], -1) * POINT_SPACING_M
    xy = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)[:-1]])
    return TownPath(xy, heading, is_closed, driven if is_closed else LEAD_IN_M + driven)


def _closed_path(rng: np.random.Generator, speed: np.ndarray, max_yaw: float) -> TownPath:
    """A loop with bends, driven a little more than once (or partly, when the frames do not suffice)."""
    seed = int(rng.integers(2**32))
    length = max(MIN_LOOP_M, speed.sum() / LAPS)
    for _ in range(3):  # slowing down in bends changes the distance covered, so fit the loop to it
        xy, heading, curvature = _loop(np.random.default_rng(seed), length)
        frame_arc = _drive(curvature, speed, max_yaw, 0.0, is_closed=True)
        length = max(MIN_LOOP_M, frame_arc[-1] / LAPS)
    return TownPath(xy, heading, True, frame_arc)


def _loop(rng: np.random.Generator, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, heading and curvature of a closed curve r(angle) = radius (1 + harmonics) of a given length."""
    radius = length / (2 * np.pi)
    angle = np.linspace(0, 2 * np.pi, int(length / POINT_SPACING_M) * 2, endpoint=False)
    harmonics = np.arange(2, max(5, int(length / 35)))
    # curvature of harmonic k is amplitude * k^2 / radius: keep it near one bend of 9 m radius
    amplitude = np.minimum(0.16, radius / (9 * harmonics**2)) * rng.uniform(-1, 1, len(harmonics))
    phase = rng.uniform(0, 2 * np.pi, len(harmonics))
    r = 1 + (amplitude[:, None] * np.cos(harmonics[:, None] * angle + phase[:, None])).sum(0)
    direction = rng.choice([-1.0, 1.0])
    xy = np.stack([r * np.cos(angle), direction * rng.uniform(0.6, 1.0) * r * np.sin(angle)], -1)
    edge = np.linalg.norm(np.roll(xy, -1, 0) - xy, axis=-1)
    xy *= length / edge.sum()
    arc = np.concatenate([[0], np.cumsum(edge)]) * (length / edge.sum())
    num = int(length / POINT_SPACING_M)
    target = np.arange(num) * (length / num)
    closed = np.concatenate([xy, xy[:1]])
    xy = np.stack([np.interp(target, arc, closed[:, i]) for i in range(2)], -1)
    tangent = np.roll(xy, -1, 0) - np.roll(xy, 1, 0)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    turn = np.angle(np.exp(1j * (np.roll(heading, -1) - np.roll(heading, 1))))
    return xy, heading, turn / (2 * POINT_SPACING_M)


def _drive(
    curvature: np.ndarray, speed: np.ndarray, max_yaw: float, start: float, *, is_closed: bool
) -> np.ndarray:
    """Distance from the start [S] at every frame, slowing down wherever speed * |curvature| exceeds max_yaw."""
    window = np.ones(25) / 25  # brake a little before the bend
    pad = np.concatenate([curvature[-12:], curvature, curvature[:12]])
    limit = max_yaw / np.maximum(np.convolve(np.abs(pad), window, "valid"), np.abs(curvature) + 1e-9)
    arc = np.zeros(len(speed))
    for i in range(1, len(speed)):
        index = int((start + arc[i - 1]) / POINT_SPACING_M)
        index = index % len(curvature) if is_closed else min(index, len(curvature) - 1)
        arc[i] = arc[i - 1] + min(speed[i], limit[index])
    return arc
