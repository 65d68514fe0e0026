"""Analytic ray casting of a town: which surface every ray meets, and at which depth.

A ray is camera + t * direction with directions scaled to z = 1 in the camera, so t is the z-depth. All objects are
convex upright prisms: intersections of a box or cylinder in the ground plane with a range of heights (the slab method,
Kay and Kajiya 1986, with a quadratic in place of two slabs for the cylinder). Shapes: N objects; R samples a pixel;
rays are arrays [R, H, W]. Positions are subtracted in float64, then everything is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.data.synthetic.layout import Town

GROUND, SKY = -1, -2
# both directions of the twelve edges of a box whose corners are numbered by `_corners`
EDGES = np.array([(i, j) for i in range(8) for j in range(8) if bin(i ^ j).count("1") == 1])
NEAR_M = 0.2
RANGE_M = 110.0


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
