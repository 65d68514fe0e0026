"""The renderer of the procedural towns: which surface each ray meets, at which depth, and its colour there.

Geometry. A ray is camera + t * direction with directions scaled to z = 1 in the camera, so t is the z-depth. All
objects are convex upright prisms: intersections of a box or cylinder in the ground plane with a range of heights (the
slab method, Kay and Kajiya 1986, with a quadratic in place of two slabs for the cylinder). Positions are subtracted
in float64, then everything is float32.

Colours are procedural, smooth, and faded out where finer than a pixel. A texture is a sum of a few waves and of
pulses (windows); a wave of frequency k (radians a metre) is multiplied with exp(-(k * footprint)^2 / 2), the transfer
function of a Gaussian as wide as the pixel's footprint (metres a pixel on the surface), so that the image moves
smoothly instead of flickering.

Shapes: N objects; R samples a pixel; rays are arrays [R, H, W]; P points; colours [P, 3] float32 RGB 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.synthetic.layout import FOLIAGE, ROAD_CELL_M, ROAD_MAX_M, WALL, Town

GROUND, SKY = -1, -2
# both directions of the twelve edges of a box whose corners are numbered by `_corners`
EDGES = np.array([(i, j) for i in range(8) for j in range(8) if bin(i ^ j).count("1") == 1])
NEAR_M = 0.2
RANGE_M = 110.0
# wave vectors (radians a metre) and weights of the rough texture
WAVES = ((1.3, 0.9, 0.5), (-1.1, 3.1, 0.45), (4.1, 1.7, 0.4), (-6.3, 6.9, 0.35), (9.7, -12.5, 0.25))
GROUND_WAVES = ((0.8, 0.35, 0.45), (-0.6, 1.5, 0.4), (2.9, 1.1, 0.45), (-2.3, 4.1, 0.4), (7.9, 2.7, 0.35))
SKY_WAVES = ((2.0, 3.0, 0.6), (-5.0, 4.0, 0.5), (9.0, 6.0, 0.4))
HAZE_M = 90.0
DARK_GLASS, LIGHT_GLASS = np.array([[0.12, 0.14, 0.2], [0.85, 0.88, 0.92]], np.float32)


@dataclass(frozen=True)
class CameraRays:
    """Pixel samples of one pinhole camera.

    xy [2, R, H, W] float32: ray directions (x / z, y / z) in the camera; focal: fx = fy in pixels;
    height, width: image size. The first sample of each pixel goes through its centre.
    """

    xy: np.ndarray
    focal: float
    height: int
    width: int

    @classmethod
    def quincunx(cls, focal: float, height: int, width: int) -> CameraRays:
        """Five samples a pixel: the centre (which gives the depth) and the centres of the four quarters."""
        offsets = np.array([(0.0, 0.0), (-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)])
        u = np.arange(width) + 0.5 - width / 2 + offsets[:, 0, None, None]
        v = (np.arange(height) + 0.5 - height / 2)[:, None] + offsets[:, 1, None, None]
        xy = np.stack(np.broadcast_arrays(u, v)) / focal
        return cls(xy.astype(np.float32), focal, height, width)

    def world_directions(self, world_from_cam: np.ndarray) -> np.ndarray:
        """Directions [3, R, H, W] float32 in the world for a rotation [3, 3]."""
        rotation = world_from_cam.astype(np.float32)[:, :, None, None, None]
        # the tiny offset keeps axis-parallel rays from dividing by zero
        return rotation[:, 0] * self.xy[0] + rotation[:, 1] * self.xy[1] + rotation[:, 2] + np.float32(1e-9)


@dataclass(frozen=True)
class Window:
    """An object that may be seen, the rows and columns that contain it, and the least depth it can have."""

    number: int
    rows: slice
    columns: slice
    nearest: float


def visible_windows(town: Town, rays: CameraRays, extrinsics: np.ndarray) -> list[Window]:
    """Objects that may be seen, nearest first. extrinsics: [3, 4] cam_from_world, float64."""
    camera = -extrinsics[:, :3].T @ extrinsics[:, 3]
    reach = np.linalg.norm(town.half_size, axis=-1)
    distance = np.linalg.norm(town.centre - camera[:2], axis=-1) - reach
    near = np.flatnonzero(distance < RANGE_M)
    near = near[np.argsort(distance[near])]
    corners = _corners(town, near) @ extrinsics[:, :3].T + extrinsics[:, 3]
    low, high = _pixel_bounds(corners, rays)
    low, high = np.maximum(low, 0), np.minimum(high, (rays.width, rays.height))
    seen = (low < high).all(1)
    windows = []
    for i in np.flatnonzero(seen):
        rows, columns = slice(low[i, 1], high[i, 1]), slice(low[i, 0], high[i, 0])
        windows.append(Window(int(near[i]), rows, columns, float(corners[i, :, 2].min())))
    return windows


def _pixel_bounds(corners: np.ndarray, rays: CameraRays) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest pixel x, y [N, 2] int of boxes with corners [N, 8, 3] in the camera, cut at NEAR_M.

    An edge that crosses the near plane counts up to there; a box behind it gets empty bounds (low > high).
    """
    a, b = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    rise = b[..., 2] - a[..., 2]
    share = np.clip((NEAR_M - a[..., 2]) / np.where(rise == 0, 1, rise), 0, 1)
    cut = np.where(a[..., 2] < NEAR_M, share, 0)[..., None] * (b - a) + a
    pixels = cut[..., :2] / np.maximum(cut[..., 2:], NEAR_M) * rays.focal + (rays.width / 2, rays.height / 2)
    behind = (cut[..., 2] < NEAR_M - 1e-6)[..., None]
    far = 1e6
    low, high = np.where(behind, far, pixels).min(1), np.where(behind, -far, pixels).max(1)
    low, high = np.floor(np.clip(low, -far, far)), np.ceil(np.clip(high, -far, far))
    return low.astype(int) - 1, high.astype(int) + 1


def _corners(town: Town, index: np.ndarray) -> np.ndarray:
    """Corners [N, 8, 3] of the objects' bounding boxes."""
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])  # corner number = binary digits: z, x, y
    local = town.half_size[index, None] * signs
    cos, sin = town.axis[index, 0, None], town.axis[index, 1, None]
    x = town.centre[index, 0, None] + local[..., 0] * cos - local[..., 1] * sin
    y = town.centre[index, 1, None] + local[..., 0] * sin + local[..., 1] * cos
    z = town.z_range[index]
    levels = [np.stack([x, y, np.broadcast_to(z[:, i, None], x.shape)], -1) for i in range(2)]
    return np.concatenate(levels, 1)


def cast_rays(
    town: Town, rays: CameraRays, extrinsics: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest surface along every ray.

    extrinsics [3, 4] float64 cam_from_world; directions [3, R, H, W] from `world_directions`.
    Returns depth [R, H, W] float32 (z-depth, inf for sky) and surface [R, H, W] int32: object, GROUND or SKY.
    """
    camera = -extrinsics[:, :3].T @ extrinsics[:, 3]
    inverse_up = 1 / directions[2]
    depth = np.where(directions[2] < 0, np.float32(-camera[2]) * inverse_up, np.float32(np.inf))
    surface = np.where(directions[2] < 0, np.int32(GROUND), np.int32(SKY))
    for seen in visible_windows(town, rays, extrinsics):
        window = (slice(None), seen.rows, seen.columns)
        part = depth[window]
        if part.max() < seen.nearest:
            continue  # hidden behind nearer objects
        with np.errstate(divide="ignore"):  # a ray parallel to a wall is inside of its slab for ever or never
            enter = _enter_prism(
                town, seen.number, camera, directions[(slice(None), *window)], inverse_up[window]
            )
        hit = enter < part
        np.copyto(part, enter, where=hit)
        np.copyto(surface[window], np.int32(seen.number), where=hit)
    return depth, surface


def _enter_prism(
    town: Town, number: int, camera: np.ndarray, directions: np.ndarray, inverse_up: np.ndarray
) -> np.ndarray:
    """Depth at which rays enter an object, inf where they miss it or start inside."""
    cos, sin = town.axis[number].astype(np.float32)
    offset = town.centre[number] - camera[:2]
    x0 = np.float32(offset @ town.axis[number])
    y0 = np.float32(-offset[0] * town.axis[number, 1] + offset[1] * town.axis[number, 0])
    dx = directions[0] * cos + directions[1] * sin
    dy = directions[1] * cos - directions[0] * sin
    low, high = (town.z_range[number] - camera[2]).astype(np.float32)
    half_x, half_y = town.half_size[number].astype(np.float32)
    if town.is_cylinder[number]:
        enter, leave = _cylinder_span(x0, y0, dx, dy, half_x)
    else:
        enter, leave = _slab_span(x0 - half_x, x0 + half_x, 1 / dx)
        enter_y, leave_y = _slab_span(y0 - half_y, y0 + half_y, 1 / dy)
        np.maximum(enter, enter_y, out=enter)
        np.minimum(leave, leave_y, out=leave)
    enter_z, leave_z = _slab_span(low, high, inverse_up)
    np.maximum(enter, enter_z, out=enter)
    np.minimum(leave, leave_z, out=leave)
    np.copyto(enter, np.float32(np.inf), where=(enter >= leave) | (enter <= 0))
    return enter


def _slab_span(low: np.float32, high: np.float32, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths at which rays with 1 / direction = inverse enter and leave the slab low..high of one coordinate."""
    a, b = low * inverse, high * inverse
    return np.minimum(a, b), np.maximum(a, b)


def _cylinder_span(
    x0: np.float32, y0: np.float32, dx: np.ndarray, dy: np.ndarray, radius: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Depths at which rays enter and leave an upright cylinder with its axis at (x0, y0); (inf, -inf) for a miss."""
    inverse = 1 / (dx * dx + dy * dy)
    middle = (dx * x0 + dy * y0) * inverse
    across = (dx * y0 - dy * x0) ** 2 * inverse  # squared distance of the ray from the axis
    half = np.sqrt(np.maximum(radius * radius - across, 0) * inverse)
    miss = across > radius * radius
    inf = np.float32(np.inf)
    return np.where(miss, inf, middle - half), np.where(miss, -inf, middle + half)


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


@dataclass(frozen=True, eq=False)
class RayHits:
    """What rays meet: directions [3, R, H, W]; depth [R, H, W] and surface [R, H, W] as `cast_rays` returns them."""

    directions: np.ndarray
    depth: np.ndarray
    surface: np.ndarray


def shade(town: Town, air: Air, focal: float, camera: np.ndarray, hits: RayHits) -> np.ndarray:
    """Image [H, W, 3] float32: the mean colour of the R samples of each pixel; camera [3]: position."""
    flat = hits.directions.reshape(3, -1)
    t, kind = hits.depth.reshape(-1), hits.surface.reshape(-1)
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
    return mixed.reshape(*hits.depth.shape, 3).mean(0)


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
