"""Colours of a town's surfaces: procedural, smooth, and faded out where finer than a pixel.

A texture is a sum of a few waves and of pulses (windows); a wave of frequency k (radians a metre) is multiplied with
exp(-(k * footprint)^2 / 2), the transfer function of a Gaussian as wide as the pixel's footprint (metres a pixel on
the surface), so that the image moves smoothly instead of flickering. Shapes: P points; colours [P, 3] float32 RGB 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.synthetic.layout import FOLIAGE, ROAD_CELL_M, ROAD_MAX_M, WALL, Town
from scal3r_train.data.synthetic.raycast import GROUND, SKY

# wave vectors (radians a metre) and weights of the rough texture
WAVES = ((1.3, 0.9, 0.5), (-1.1, 3.1, 0.45), (4.1, 1.7, 0.4), (-6.3, 6.9, 0.35), (9.7, -12.5, 0.25))
GROUND_WAVES = ((0.8, 0.35, 0.45), (-0.6, 1.5, 0.4), (2.9, 1.1, 0.45), (-2.3, 4.1, 0.4), (7.9, 2.7, 0.35))
SKY_WAVES = ((2.0, 3.0, 0.6), (-5.0, 4.0, 0.5), (9.0, 6.0, 0.4))
HAZE_M = 90.0
DARK_GLASS, LIGHT_GLASS = np.array([[0.12, 0.14, 0.2], [0.85, 0.88, 0.92]], np.float32)


@dataclass(frozen=True)
class Air:
    """Sky and fog. horizon, zenith: RGB; fog_m: distance at which fog hides 63 percent, inf without fog.

    sky_through_fog: share of the sky's own colour that fog leaves.
    """

    horizon: np.ndarray
    zenith: np.ndarray
    cloud_phase: float
    fog_m: float
    sky_through_fog: float = 0.25


def shade(
    town: Town,
    air: Air,
    focal: float,
    camera: np.ndarray,
    directions: np.ndarray,
    depth: np.ndarray,
    surface: np.ndarray,
) -> np.ndarray:
    """Image [H, W, 3] float32: the mean colour of the R samples of each pixel.

    camera [3] position; directions [3, R, H, W]; depth, surface [R, H, W] from `cast_rays`.
    """
    flat = directions.reshape(3, -1)
    t, kind = depth.reshape(-1), surface.reshape(-1)
    colour = np.empty((t.size, 3), np.float32)
    sky, ground, solid = (np.flatnonzero(mask) for mask in (kind == SKY, kind == GROUND, kind >= 0))
    colour[sky] = _sky(air, flat[:, sky])
    colour[ground] = _ground(town, camera, flat[:, ground], t[ground], focal)
    colour[solid] = _solid(town, camera, flat[:, solid], t[solid], kind[solid], focal)
    clear = np.ones_like(t)
    clear[ground] = np.exp(-((np.minimum(t[ground], 1e4) / HAZE_M) ** 2))
    if np.isfinite(air.fog_m):
        clear *= np.exp(-t / np.float32(air.fog_m))
        clear[sky] = air.sky_through_fog
    fog_colour = air.horizon.astype(np.float32)
    mixed = fog_colour + clear[:, None] * (colour - fog_colour)
    return mixed.reshape(*depth.shape, 3).mean(0)


def _waves(
    waves: tuple[tuple[float, float, float], ...],
    u: np.ndarray,
    v: np.ndarray,
    phase: np.ndarray | np.float32,
    width: np.ndarray,
) -> np.ndarray:
    """Sum of band-limited waves at surface coordinates u, v (metres) [P]; width: the footprint [P] in metres."""
    total = np.zeros_like(u)
    for i, (ku, kv, weight) in enumerate(waves):
        fade = np.exp((-0.5 * (ku * ku + kv * kv)) * width * width)
        total += weight * fade * np.cos(ku * u + kv * v + (1 + 0.37 * i) * phase)
    return total


def _pulse(x: np.ndarray, period: np.ndarray, filled: float, width: np.ndarray) -> np.ndarray:
    """Periodic pulses, `filled` of each period, with edges as soft as the footprint; their mean when too fine."""
    share = np.abs((x / period) % 1 - 0.5) * period
    sharp = np.clip((0.5 * filled * period - share) / np.maximum(width, 0.02) + 0.5, 0, 1)
    blend = np.clip(2.2 * width / period - 0.4, 0, 1)
    return sharp + blend * (filled - sharp)


def _sky(air: Air, direction: np.ndarray) -> np.ndarray:
    """Gradient from the horizon to the zenith with soft clouds, which stand infinitely far away."""
    across = np.hypot(direction[0], direction[1])
    rise = np.clip(direction[2] / np.maximum(across, 1e-6), 0, 2)
    azimuth = np.arctan2(direction[1], direction[0])
    # clouds repeat after a full turn, so that a loop sees the same sky: whole-number frequencies in azimuth
    phase = np.float32(air.cloud_phase)
    cloud = _waves(SKY_WAVES, azimuth, 3 * rise, phase, np.zeros_like(rise))
    share = (1 - np.exp(-1.6 * rise))[:, None]
    base = air.horizon.astype(np.float32) * (1 - share) + air.zenith.astype(np.float32) * share
    return np.clip(base + 0.10 * cloud[:, None] * np.minimum(4 * rise, 1)[:, None], 0, 1)


def _ground(town: Town, camera: np.ndarray, direction: np.ndarray, t: np.ndarray, focal: float) -> np.ndarray:
    """Asphalt with a light kerb along the path, grass elsewhere, both mottled."""
    x = (camera[0] + t * direction[0]).astype(np.float32)
    y = (camera[1] + t * direction[1]).astype(np.float32)
    # seen at a grazing angle: the footprint's geometric mean of across and along the view
    width = np.float32(0.5 / focal) * t * np.sqrt(np.maximum(t / np.float32(camera[2]), 1))
    road = _road_distance(town, x, y)
    mottle = _waves(GROUND_WAVES, x, y, np.float32(town.sun[0] * 20), width)[:, None]
    edge = np.maximum(width, 0.15)
    on_road = np.clip((2.6 - road) / edge + 0.5, 0, 1)[:, None]
    kerb = np.clip((0.35 - np.abs(road - 2.7)) / edge + 0.5, 0, 1)[:, None]
    grass = np.array([0.38, 0.42, 0.24], np.float32) * (1 + 0.42 * mottle)
    asphalt = np.array([0.36, 0.36, 0.38], np.float32) * (1 + 0.30 * mottle)
    ground = grass + on_road * (asphalt - grass)
    return np.clip(ground + 0.6 * kerb * (np.float32(0.75) - ground), 0, 1)


def _road_distance(town: Town, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the path [P] in metres by bilinear interpolation; ROAD_MAX_M off the map."""
    rows, columns = town.road.shape
    i = np.clip((x - np.float32(town.road_origin[0])) / ROAD_CELL_M, 0, rows - 1.001)
    j = np.clip((y - np.float32(town.road_origin[1])) / ROAD_CELL_M, 0, columns - 1.001)
    low_i, low_j = i.astype(np.int32), j.astype(np.int32)
    di, dj = i - low_i, j - low_j
    flat, corner = town.road.reshape(-1), low_i * columns + low_j
    near = flat[corner] * (1 - dj) + flat[corner + 1] * dj
    far = flat[corner + columns] * (1 - dj) + flat[corner + columns + 1] * dj
    return np.minimum(near * (1 - di) + far * di, np.float32(ROAD_MAX_M))


def _solid(
    town: Town, camera: np.ndarray, direction: np.ndarray, t: np.ndarray, number: np.ndarray, focal: float
) -> np.ndarray:
    """Houses with windows, trees, poles: pattern in surface coordinates, times the sun's shading."""
    table = _object_table(town, camera)[:, number]
    cos, sin, x0, y0, half_x, half_y, low, high, round_, period_u, period_v, phase, contrast = table
    dx, dy = direction[0] * cos + direction[1] * sin, direction[1] * cos - direction[0] * sin
    x, y, z = t * dx - x0, t * dy - y0, t * direction[2] + np.float32(camera[2])
    round_ = round_ > 0
    radial = np.hypot(x, y) / half_x
    side_x, side_y = np.abs(x) / half_x, np.abs(y) / half_y
    level = np.abs(2 * z - low - high) / (high - low)
    is_cap = level > np.where(round_, radial, np.maximum(side_x, side_y))
    is_x = side_x > side_y
    normal_x = np.where(round_, x / half_x, np.sign(x) * is_x) * ~is_cap
    normal_y = np.where(round_, y / half_y, np.sign(y) * ~is_x) * ~is_cap
    u = np.where(round_, np.arctan2(y, x) * half_x, np.where(is_cap, x, np.where(is_x, y, x)))
    v = np.where(is_cap, y, z - low)
    length = np.sqrt(dx * dx + dy * dy + direction[2] ** 2)
    facing = np.abs(normal_x * dx + normal_y * dy + is_cap * direction[2]) / length
    width = np.float32(0.5 / focal) * t / np.maximum(facing, 0.15)
    sun = town.sun.astype(np.float32)
    to_sun = (normal_x * cos - normal_y * sin) * sun[0] + (normal_x * sin + normal_y * cos) * sun[1]
    light = 0.62 + 0.45 * np.maximum(to_sun, 0) + is_cap * np.sign(2 * z - low - high) * 0.2
    # every face of an object gets its own texture
    face_phase = phase + np.float32(2) * is_x + np.float32(3) * (normal_x + normal_y > 0)
    rough = 1 + contrast * _waves(WAVES, u, v, face_phase, width)
    colour = town.colour.astype(np.float32)[number] * rough[:, None]
    material = town.material[number]
    pane = _pulse(u, period_u, 0.45, width) * _pulse(v + 0.4, period_v, 0.5, width)
    pane = pane * ((material == WALL) & ~is_cap)
    glass = np.where((phase > 25)[:, None], DARK_GLASS, LIGHT_GLASS)
    colour += 0.85 * pane[:, None] * (glass - colour)
    light += np.where(material == FOLIAGE, 0.25 * (z - low) / (high - low) - 0.12, 0)
    return np.clip(colour * light[:, None], 0, 1)


def _object_table(town: Town, camera: np.ndarray) -> np.ndarray:
    """Per-object numbers [13, N] float32 that `_solid` looks up for every point, relative to the camera."""
    offset = town.centre - camera[:2]
    cos, sin = town.axis.T
    rows = [
        cos,
        sin,
        offset[:, 0] * cos + offset[:, 1] * sin,
        offset[:, 1] * cos - offset[:, 0] * sin,
        *town.half_size.T,
        *town.z_range.T,
        town.is_cylinder,
        *town.pattern.T,
    ]
    return np.stack(rows).astype(np.float32)
