"""A cloud seen from behind its cameras and from above, its cameras as wire frames. Shapes: N points, H W pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from scal3r_data_tools.previewing.cloud import Cloud
from scal3r_train.geometry.splat import shaded, splat
from scal3r_train.geometry.view import View, positions

BACK, ABOVE, AHEAD = 0.7, 0.55, 1.0  # of the median depth: the observer's place, and where the observer looks
OBSERVER_TAN = 0.6  # tangent of half the observer's vertical field of view
MIN_Z = 0.02  # of the median depth, nearer to the observer than which nothing is drawn
ROOF = 0.35  # of the median depth above the cameras; what is higher would hide the rest from above
MARGIN = 1.08
CAMERA_SIZE = 0.08  # of the median depth
CAMERA_COLOUR = (255, 60, 200)
Projection = Callable[
    [np.ndarray], tuple[np.ndarray, np.ndarray]
]  # world [N, 3] -> pixels [N, 2], distance [N]


def from_behind(cloud: Cloud, up: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Return the cloud as an observer sees it who stands behind and above its first camera: [H, W, 3] uint8."""
    observer = observer_pose(cloud, up)
    focal = hw[0] / 2 / OBSERVER_TAN

    def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        local = points @ observer[:, :3].T + observer[:, 3]
        z = np.where(local[:, 2] > MIN_Z * cloud.median_depth, local[:, 2], np.nan)
        return local[:, :2] / z[:, None] * focal + np.array(hw[::-1]) / 2, z

    pixels, z = project(cloud.points)
    side = np.nan_to_num(cloud.spacing * focal / z) + 0.7  # closes the gaps between turned pixels
    image, seen = splat(pixels, z, cloud.colours, side, hw)
    return _with_cameras(shaded(image, seen), cloud, project)


def from_above(cloud: Cloud, view: View, hw: tuple[int, int]) -> np.ndarray:
    """Return the cloud from above, in a parallel projection and without what is high above the cameras."""
    is_low = view.heights(cloud.points) < _top(cloud, view)
    if not is_low.any():
        is_low[:] = True
    cameras = view.places(positions(cloud.cam_from_world))
    places = view.places(cloud.points[is_low])
    corners = np.concatenate([np.quantile(places, [0.01, 0.99], axis=0), cameras])
    low, high = corners.min(0), corners.max(0)
    per_unit = float(min(np.array(hw[::-1]) / np.maximum(MARGIN * (high - low), 1e-9)))
    ceiling = float(view.heights(cloud.points[is_low]).max()) + cloud.median_depth

    def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = ((view.places(points) - (low + high) / 2) * per_unit).T
        return np.stack([hw[1] / 2 + x, hw[0] / 2 - y], -1), ceiling - view.heights(points)

    pixels, distance = project(cloud.points[is_low])
    side = cloud.spacing[is_low] * per_unit + 0.7
    image, seen = splat(pixels, distance, cloud.colours[is_low], side, hw)
    return _with_cameras(shaded(image, seen), cloud, project)


def observer_pose(cloud: Cloud, up: np.ndarray) -> np.ndarray:
    """Return observer_from_world [3, 4]: behind and above the first camera, looking at what lies ahead of it."""
    rotation, centre = cloud.cam_from_world[0, :, :3], positions(cloud.cam_from_world[:1])[0]
    ahead = rotation[2]
    level = ahead - (ahead @ up) * up
    if np.linalg.norm(level) < 0.2:  # it looks up or down
        level = -rotation[1] - (-rotation[1] @ up) * up
    level = level / max(float(np.linalg.norm(level)), 1e-12)
    place = centre + cloud.median_depth * (ABOVE * up - BACK * level)
    z = centre + AHEAD * cloud.median_depth * ahead - place
    z = z / np.linalg.norm(z)
    x = np.cross(z, up)
    x = x / max(float(np.linalg.norm(x)), 1e-12)
    axes = np.stack([x, np.cross(z, x), z])
    return np.concatenate([axes, -axes @ place[:, None]], -1)


def _top(cloud: Cloud, view: View) -> float:
    cameras = view.heights(positions(cloud.cam_from_world))
    return float(cameras.max()) + ROOF * cloud.median_depth


def _with_cameras(image: np.ndarray, cloud: Cloud, project: Projection) -> np.ndarray:
    """Draw each camera as a pyramid on an image [H, W, 3]."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    x, y = cloud.tan_half_fov
    corners = np.array([[0, 0, 0], [-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]])
    corners = corners * CAMERA_SIZE * cloud.median_depth
    for pose in cloud.cam_from_world:
        pixels, _ = project((corners - pose[:, 3]) @ pose[:, :3])
        for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
            ends = pixels[[a, b]]
            if np.isfinite(ends).all() and np.abs(ends).max() < 4 * max(image.shape):
                draw.line([tuple(end) for end in ends.tolist()], fill=CAMERA_COLOUR)
    return np.asarray(picture)
