"""How a circuit is driven: everything that differs between drives is drawn here, from one seed.

The camera sits in a car that keeps near the middle of its road, slows down for bends, sways, nods over bumps and leans
with the road. World coordinates are y up, cameras OpenCV's (x right, y down, z forward). Lengths in metres, angles in
radians. Shapes: S frames, N points of a route.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from scal3r_data_tools.preparing.circuits.route import Route

FRAMES_PER_SECOND = 10.0
STEP_M = (0.5, 3.0)
MEAN_STEP_M = (0.7, 2.6)
HEIGHT_M = (1.1, 2.5)
FIELD_OF_VIEW_DEG = (50.0, 100.0)
MAX_TURN = 0.08  # of the heading between two frames, where STEP_M allows it
LOOK_M = 2.0  # the heading is that of the line so far before and behind
MAX_OFFSET_M = 3.0
FOG_VISIBILITY_M = (120.0, 2500.0)  # at which 63 % is hidden
JPEG_QUALITY = (70, 96)


@dataclass(frozen=True)
class Style:
    """One drive's own numbers.

    Attributes:
        start: where it begins, as a share of the lap. is_reversed: driven against the circuit's direction.
        mean_step, height: metres. field_of_view: horizontal, radians. offset: standard deviation beside the middle.
        pitch, yaw, roll: of the camera on the car. sway, nod, lean: standard deviations of the car's own.
        gain: of the exposure; gain_drift: standard deviation of its slow changes; tint [3] of the colours.
        fog_per_m: share of the light that a metre of fog takes, 0 for none; fog_colour [3].
        noise: standard deviation, of 255. jpeg_quality: Pillow's.
    """

    start: float
    is_reversed: bool
    mean_step: float
    height: float
    field_of_view: float
    offset: float
    pitch: float
    yaw: float
    roll: float
    sway: float
    nod: float
    lean: float
    gain: float
    gain_drift: float
    tint: np.ndarray
    fog_per_m: float
    fog_colour: np.ndarray
    noise: float
    jpeg_quality: int


@dataclass(frozen=True)
class CameraPath:
    """world_from_cam [S, 3, 4] float64, metres driven [S], and the exposure [S] that multiplies each frame."""

    world_from_cam: np.ndarray
    driven: np.ndarray
    exposure: np.ndarray


def draw_style(rng: np.random.Generator, number: int) -> Style:
    """Draw the style of drive `number`: even ones go with the circuit's direction, odd ones against it."""
    degrees = np.pi / 180
    haze = rng.uniform(0.55, 0.9)
    return Style(
        start=rng.uniform(),
        is_reversed=number % 2 == 1,
        mean_step=_log_uniform(rng, *MEAN_STEP_M),
        height=rng.uniform(*HEIGHT_M),
        field_of_view=rng.uniform(*FIELD_OF_VIEW_DEG) * degrees,
        offset=rng.uniform(0.05, 0.18),
        pitch=rng.uniform(-5, 2) * degrees,
        yaw=rng.normal(0, 2) * degrees,
        roll=rng.normal(0, 0.5) * degrees,
        sway=rng.uniform(0.5, 2.5) * degrees,
        nod=_log_uniform(rng, 0.15, 1.2) * degrees,
        lean=_log_uniform(rng, 0.15, 1.0) * degrees,
        gain=_log_uniform(rng, 0.7, 1.35),
        gain_drift=rng.uniform(0, 0.12),
        tint=np.exp(rng.normal(0, 0.04, 3)),
        fog_per_m=1 / _log_uniform(rng, *FOG_VISIBILITY_M) if rng.uniform() < 0.4 else 0.0,
        fog_colour=np.clip(haze + rng.normal(0, 0.03, 3), 0, 1),
        noise=rng.uniform(0, 6) if rng.uniform() < 0.7 else 0.0,
        jpeg_quality=int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1])),
    )


def camera_path(
    route: Route, style: Style, rng: np.random.Generator, laps: float, max_frames: int
) -> CameraPath:
    """Drive round a route for so many laps, but at most max_frames (0: no limit)."""
    line = (route.reversed() if style.is_reversed else route).smoothed()
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(_closed(line.points), axis=0), axis=1))])
    lap = float(along[-1])
    bend = gaussian_filter1d(_turns(line.points), 5, mode="wrap")
    driven = _driven(style, rng, along[:-1], bend, lap, laps, max_frames)
    num, at = len(driven), driven + style.start * lap

    def on_line(values: np.ndarray, where: np.ndarray) -> np.ndarray:
        closed = _closed(values)
        return np.stack([np.interp(np.mod(where, lap), along, column) for column in closed.T], 1)

    def wander(length: float) -> np.ndarray:
        return smooth_noise(rng, num, length / style.mean_step)

    forward = _unit(on_line(line.points, at + LOOK_M) - on_line(line.points, at - LOOK_M))
    right = on_line(line.right, at)
    right = _unit(right - (right * forward).sum(1, keepdims=True) * forward)
    above = np.cross(right, forward)
    offset = np.clip(style.offset * route.width * wander(70), -0.25 * route.width, 0.25 * route.width)
    offset = np.clip(offset, -MAX_OFFSET_M, MAX_OFFSET_M)
    height = style.height + 0.03 * wander(8)
    centre = on_line(line.points, at) + right * offset[:, None] + above * height[:, None]
    world_from_car = np.stack([right, -above, forward], -1)
    yaw = style.yaw + style.sway * wander(25) + np.arctan(np.gradient(offset) / np.gradient(driven))
    pitch = style.pitch + style.nod * (0.8 * wander(4) + 0.6 * wander(15))
    roll = style.roll + style.lean * (0.6 * wander(4) + 0.8 * wander(20))
    rotation = world_from_car @ _about_y(yaw) @ _about_x(pitch) @ _about_z(roll)
    exposure = style.gain * np.exp(style.gain_drift * wander(60))
    return CameraPath(np.concatenate([rotation, centre[..., None]], -1), driven, exposure)


def smooth_noise(rng: np.random.Generator, num: int, length: float) -> np.ndarray:
    """Gaussian noise [num] of variance 1 that changes within about `length` samples."""
    margin = int(np.ceil(4 * length))
    white = rng.standard_normal(num + 2 * margin)
    # the variance that a Gaussian filter leaves of white noise is 1 / (2 sqrt(pi) length)
    scale = np.sqrt(2 * np.sqrt(np.pi) * length) if length > 0.5 else 1.0
    smooth = gaussian_filter1d(white, length) if length > 0.5 else white
    return scale * smooth[margin : margin + num]


def _driven(
    style: Style,
    rng: np.random.Generator,
    along: np.ndarray,
    bend: np.ndarray,
    lap: float,
    laps: float,
    max_frames: int,
) -> np.ndarray:
    """Metres driven at each of at least two frames [S]: a mean step that wanders, shorter in bends, within STEP_M."""
    limit = max_frames or int(np.ceil(laps * lap / STEP_M[0]))
    pace = style.mean_step * np.exp(0.2 * smooth_noise(rng, limit, 60 / style.mean_step))
    slowest = np.clip(MAX_TURN / np.maximum(bend, 1e-6), *STEP_M)
    driven = [0.0]
    for step in pace:
        here = np.searchsorted(along, np.mod(driven[-1] + style.start * lap, lap), "right") - 1
        driven.append(driven[-1] + float(np.clip(min(step, slowest[here]), *STEP_M)))
        if driven[-1] > laps * lap:
            break
    return np.array(driven[: max(2, len(driven) - 1)])


def _turns(points: np.ndarray) -> np.ndarray:
    """Absolute change of heading per metre [N] of a closed line."""
    step = np.roll(points, -1, 0) - points
    heading = np.arctan2(step @ np.array([0.0, 0, 1]), step @ np.array([1.0, 0, 0]))
    change = np.mod(heading - np.roll(heading, 1) + np.pi, 2 * np.pi) - np.pi
    return np.abs(change) / np.maximum(np.linalg.norm(step, axis=1), 1e-9)


def _closed(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values[:1]])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _about_x(angle: np.ndarray) -> np.ndarray:
    """Rotations [S, 3, 3]; positive lifts the camera's view."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).reshape(-1, 3, 3)


def _about_y(angle: np.ndarray) -> np.ndarray:
    """Rotations [S, 3, 3]; positive turns the camera's view to the right."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).reshape(-1, 3, 3)


def _about_z(angle: np.ndarray) -> np.ndarray:
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)
