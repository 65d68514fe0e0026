"""The point cloud of a scene drawn from above, from an angle and from behind one of its cameras.

Shapes: N points, H W pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from scal3r_train.geometry.drawing import View, shaded, splat
from scal3r_train.scene.scene import Scene
from scal3r_train.scene.visualization.colours import chunk_colours, chunk_of_frame, frame_of_point

MAX_POINTS = 600_000
OVERSAMPLING = 2
BACKGROUND = (16, 20, 27)
ELEVATION_DEG = 38.0
TAN_HALF_FOV = 0.45
MARGIN = 1.1
KEPT = (0.005, 0.995)  # quantiles of the points that the picture from above has to hold
ROOF_QUANTILE = 0.5  # of the heights of points above the cameras, beyond which they hide the rest


def cloud_pictures(scene: Scene, view: View, hw: tuple[int, int]) -> list[tuple[np.ndarray, str]]:
    """Return pictures [H, W, 3] uint8 with their captions; none for an empty cloud."""
    chosen = _chosen(scene)
    if not len(chosen):
        return []
    points, colours = scene.positions[chosen].astype(np.float64), scene.colours[chosen]
    cameras = scene.world_from_cam[:, :, 3].numpy()
    near = _near_cameras(points, cameras)
    overview = _overview(view, points[near], cameras)
    frame = scene.info.num_frames // 4
    behind = _behind(scene, view, frame)
    close = _close_to(scene, -behind[:, :3].T @ behind[:, 3], chosen)
    street = scene.positions[close].astype(np.float64), scene.colours[close]
    return [
        (_from_above(scene, view, points[near], colours[near], hw), "points from above"),
        (_perspective(scene, overview, points[near], colours[near], hw), "points from an angle"),
        (
            _perspective(scene, behind, *street, hw),
            f"points from behind and above the camera of frame {frame}",
        ),
    ]


def _chosen(scene: Scene) -> np.ndarray:
    """Return [n] points of finite position, evenly over the video."""
    finite = np.flatnonzero(np.isfinite(scene.positions).all(-1))
    return finite[:: max(1, -(-len(finite) // MAX_POINTS))]


def _close_to(scene: Scene, place: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return `chosen` points and those that are closest to a place [3], which are seen one by one."""
    distance = np.square(scene.positions - place.astype(np.float32)).sum(-1)
    count = min(MAX_POINTS, len(distance))
    close = np.argpartition(np.nan_to_num(distance, nan=np.inf), count - 1)[:count]
    return np.union1d(chosen, close[np.isfinite(distance[close])])


def _near_cameras(points: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Return [N] whether points are not far outside of what most of them and the cameras take up."""
    low, high = np.quantile(points, [0.02, 0.98], axis=0)
    low, high = np.minimum(low, cameras.min(0)), np.maximum(high, cameras.max(0))
    margin = 0.1 * (high - low).max()
    inside = ((points >= low - margin) & (points <= high + margin)).all(-1)
    return inside if inside.any() else np.ones(len(points), bool)


def _from_above(
    scene: Scene, view: View, points: np.ndarray, colours: np.ndarray, hw: tuple[int, int]
) -> np.ndarray:
    """Return the parallel projection along `view.up`, without the upper half of what is above the cameras."""
    cameras = scene.world_from_cam[:, :, 3].numpy()
    heights, top = view.heights(points), float(view.heights(cameras).max())
    above = heights[heights > top]
    roof = top + (float(np.quantile(above - top, ROOF_QUANTILE)) if len(above) else 0.0)
    is_low = heights <= roof if (heights <= roof).any() else np.ones(len(heights), bool)
    points, colours, heights = points[is_low], colours[is_low], heights[is_low]
    places = view.places(points)
    corners = np.concatenate([np.quantile(places, KEPT, axis=0), view.places(cameras)])
    low, high = corners.min(0), corners.max(0)
    size = np.array(hw) * OVERSAMPLING
    per_unit = float(min(size[::-1] / np.maximum(MARGIN * (high - low), 1e-9)))

    def project(world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = ((view.places(world) - (low + high) / 2) * per_unit).T
        distance = float(heights.max()) + 1 + float(np.ptp(heights)) - view.heights(world)
        return np.stack([size[1] / 2 + x, size[0] / 2 - y], -1), distance

    pixels, distance = project(points)
    side = np.full(len(points), max(_spacing(scene) * per_unit, 1.0) + 0.7)
    image, seen = splat(pixels, distance, colours, side, (int(size[0]), int(size[1])))
    return _finished(image, seen, scene, project(cameras)[0], hw)


def _perspective(
    scene: Scene, observer: np.ndarray, points: np.ndarray, colours: np.ndarray, hw: tuple[int, int]
) -> np.ndarray:
    """Return what an observer at observer_from_world [3, 4] sees."""
    size = np.array(hw) * OVERSAMPLING
    focal = size[0] / 2 / TAN_HALF_FOV
    nearest = 1e-3 * float(np.linalg.norm(np.ptp(points, axis=0))) / 10

    def project(world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        local = world @ observer[:, :3].T + observer[:, 3]
        z = np.where(local[:, 2] > nearest, local[:, 2], np.nan)
        return local[:, :2] / z[:, None] * focal + size[::-1] / 2, z

    pixels, z = project(points)
    side = np.nan_to_num(_spacing(scene) * focal / z) + 1.0
    image, seen = splat(pixels, z, colours, side, (int(size[0]), int(size[1])))
    return _finished(image, seen, scene, project(scene.world_from_cam[:, :, 3].numpy())[0], hw)


def _spacing(scene: Scene) -> float:
    """Return about how far points are apart."""
    share = max(1.0, len(scene.positions) / MAX_POINTS)
    return scene.info.voxel_size * share**0.5


def _overview(view: View, points: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Return observer_from_world [3, 4] of an observer who sees all of the trajectory from the side and above."""
    places = view.places(np.concatenate([cameras, np.quantile(points, [0.1, 0.9], axis=0)]))
    low, high = places.min(0), places.max(0)
    middle = view.origin + (low + high) / 2 @ view.axes
    reach = float(max((high - low)[0] / 2, (high - low)[1] / 2, 1e-6)) * 1.15
    angle = np.deg2rad(ELEVATION_DEG)
    place = middle + reach * 1.45 / TAN_HALF_FOV * 0.5 * (
        np.sin(angle) * view.up - np.cos(angle) * view.axes[1]
    )
    return _look_at(place, middle, view.up)


def _behind(scene: Scene, view: View, frame: int) -> np.ndarray:
    """Return observer_from_world [3, 4] of an observer behind and above a camera, looking where it looks."""
    camera = scene.world_from_cam[frame].numpy()
    own = frame_of_point(scene) == frame
    seen = scene.positions[own] if own.any() else scene.positions
    depth = float(np.nanmedian((seen - camera[:, 3]) @ camera[:, 2]))
    depth = depth if depth > 0 else 1.0
    ahead = camera[:, 2] - (camera[:, 2] @ view.up) * view.up
    ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-9)
    place = camera[:, 3] + depth * (0.35 * view.up - 0.6 * ahead)
    return _look_at(place, camera[:, 3] + depth * camera[:, 2], view.up)


def _look_at(place: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    z = target - place
    z = z / max(float(np.linalg.norm(z)), 1e-12)
    x = np.cross(z, up)
    x = x / max(float(np.linalg.norm(x)), 1e-12)
    axes = np.stack([x, np.cross(z, x), z])
    return np.concatenate([axes, -axes @ place[:, None]], -1)


def _finished(
    image: np.ndarray, seen: np.ndarray, scene: Scene, cameras: np.ndarray, hw: tuple[int, int]
) -> np.ndarray:
    """Return the picture with its background and the cameras' path, at its size."""
    image = shaded(image, seen)
    image[~np.isfinite(seen)] = BACKGROUND
    colours = chunk_colours(len(scene.info.provided_frames))[chunk_of_frame(scene)]
    inside = np.isfinite(cameras).all(-1)
    inside[inside] = ((cameras[inside] >= 2) & (cameras[inside] < np.array(image.shape[1::-1]) - 2)).all(-1)
    for row in range(-1, 2):
        for column in range(-1, 2):
            x, y = cameras[inside].astype(int).T
            image[y + row, x + column] = colours[inside]
    return np.asarray(Image.fromarray(image).resize(hw[::-1], Image.Resampling.BOX))
