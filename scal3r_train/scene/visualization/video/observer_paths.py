"""Where the observer of a video is at each of its frames, and how far the scene's own time has come.

An observer is a pinhole camera with the video's middle as principal point: observer_from_world [3, 4] (OpenCV axes)
and a focal length in pixels. Up is what most cameras hold upright (`geometry.drawing.View`). Shapes: S frames of the
scene, V of the video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scal3r_train.geometry.drawing import View

SMOOTHED_S, SMOOTHED_DEPTHS = (
    0.5,
    0.3,
)  # of the video, of the way: over which the observer's motion is averaged
FOCAL, FAR_FOCAL = 0.8, 2.0  # of the video's height: for those in the scene, and for those who see all of it
BEHIND, ABOVE, LOOK_AHEAD = 0.7, 0.4, 1.0  # of chase, in typical depths
ORBIT_ELEVATION_DEG, MARGIN = 35.0, 1.08
NUM_DEPTHS = 40  # frames whose depth tells how far things are
KEPT = (0.03, 0.97)  # quantiles of the points that orbit and top hold


@dataclass(frozen=True, eq=False)
class Seen:
    """What paths are made from.

    Attributes:
        world_from_cam: [S, 3, 4] float64 cameras.
        view: up, and a look from above.
        depth: typical distance of what cameras see, in world units.
        points: [n, 3] some of the points.
    """

    world_from_cam: np.ndarray
    view: View
    depth: float
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class ObserverPath:
    """The observer during a video.

    Attributes:
        observer_from_world: [V, 3, 4].
        focal: pixels.
        now: [V] how many frames of the scene have passed, 0 to S - 1, not whole.
    """

    observer_from_world: np.ndarray
    focal: float
    now: np.ndarray


def observer_path(kind: str, seen: Seen, num_frames: int, fps: float, hw: tuple[int, int]) -> ObserverPath:
    """Return the observer of a video of `num_frames` frames at `fps` per second, `hw` in size; `kind` of OBSERVERS."""
    return PATHS[kind](seen, num_frames, fps, hw)


def typical_depth(world_from_cam: np.ndarray, points: np.ndarray, frame_of_point: np.ndarray) -> float:
    """Return the median over some frames of how far ahead their own points are; by the path's steps without any.

    Args:
        world_from_cam: [S, 3, 4].
        points: [n, 3].
        frame_of_point: [n] which frame saw each, below 0 when that is not known.
    """
    depths = []
    for frame in np.unique(np.linspace(0, len(world_from_cam) - 1, NUM_DEPTHS).astype(int)):
        own = points[frame_of_point == frame]
        ahead = (own - world_from_cam[frame, :, 3]) @ world_from_cam[frame, :, 2]
        if (ahead > 0).any():
            depths.append(float(np.median(ahead[ahead > 0])))
    if depths:
        return float(np.median(depths))
    steps = np.linalg.norm(np.diff(world_from_cam[:, :, 3], axis=0), axis=1)
    return float(10 * np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def look_at(place: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return observer_from_world [V, 3, 4] of observers at [V, 3] who look at [V, 3] with up [3] upwards."""
    ahead = _unit(target - place)
    right = np.cross(ahead, up)
    # Straight up or down, any right will do.
    spare = _unit(np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))]))
    right = _unit(np.where(np.linalg.norm(right, axis=1, keepdims=True) > 1e-6, right, spare))
    axes = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    return np.concatenate([axes, -(axes @ place[:, :, None])], axis=2)


def _passing(seen: Seen, num_frames: int) -> np.ndarray:
    return np.linspace(0, len(seen.world_from_cam) - 1, num_frames)


def _smoothed(seen: Seen, axis: int, now: np.ndarray, fps: float) -> np.ndarray:
    """Return a column of the cameras at times `now` [V] as [V, 3], averaged with Gaussian weights around each."""
    values, index = seen.world_from_cam[:, :, axis], np.arange(len(seen.world_from_cam))
    rate = (now[-1] - now[0]) / max(len(now) - 1, 1)  # frames of the scene per frame of the video
    steps = np.linalg.norm(np.diff(seen.world_from_cam[:, :, 3], axis=0), axis=1)
    step = float(np.median(steps)) if len(steps) else 0.0
    width = max(min(SMOOTHED_S * fps * rate / 2, SMOOTHED_DEPTHS * seen.depth / max(step, 1e-12)), 0.5)
    result = np.empty((len(now), 3))
    for number, time in enumerate(now):
        low, high = max(int(time - 4 * width), 0), int(time + 4 * width) + 2
        weight = np.exp(-0.5 * np.square((index[low:high] - time) / width))
        result[number] = weight @ values[low:high] / weight.sum()
    return result


def _chase(seen: Seen, num_frames: int, fps: float, hw: tuple[int, int]) -> ObserverPath:
    """Behind and above the camera, upright, looking ahead of it."""
    now, up = _passing(seen, num_frames), seen.view.up
    ahead, centre = (_smoothed(seen, axis, now, fps) for axis in (2, 3))
    level = _unit(ahead - np.outer(ahead @ up, up))
    place = centre + seen.depth * (ABOVE * up - BEHIND * level)
    return ObserverPath(look_at(place, centre + LOOK_AHEAD * seen.depth * level, up), FOCAL * hw[0], now)


def _follow(seen: Seen, num_frames: int, fps: float, hw: tuple[int, int]) -> ObserverPath:
    """In the camera, with its shakes taken out."""
    now = _passing(seen, num_frames)
    ahead, down, centre = (_smoothed(seen, axis, now, fps) for axis in (2, 1, 3))
    ahead = _unit(ahead)
    right = _unit(np.cross(down, ahead))
    axes = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    observer = np.concatenate([axes, -(axes @ centre[:, :, None])], axis=2)
    return ObserverPath(observer, FOCAL * hw[0], now)


def _orbit(seen: Seen, num_frames: int, fps: float, hw: tuple[int, int]) -> ObserverPath:
    """Once around all, looking down on it."""
    del fps
    now, view = _passing(seen, num_frames), seen.view
    middle, places = _held(seen)
    elevation, focal = np.deg2rad(ORBIT_ELEVATION_DEG), FAR_FOCAL * hw[0]
    height = np.abs((places - middle) @ view.up).max()
    radius = float(np.linalg.norm((places - middle) @ view.axes.T, axis=1).max())
    # So far away that neither the near rim nor the sides of a drum around all leave the picture.
    rise = radius * np.sin(elevation) + height * np.cos(elevation)
    distance = max(rise * focal / (hw[0] / 2) + radius * np.cos(elevation), radius * focal / (hw[1] / 2))
    angle = 2 * np.pi * np.arange(num_frames) / num_frames
    flat = -np.outer(np.cos(angle), view.axes[1]) + np.outer(np.sin(angle), view.axes[0])
    place = middle + MARGIN * distance * (np.cos(elevation) * flat + np.sin(elevation) * view.up)
    target = np.broadcast_to(middle, place.shape)
    return ObserverPath(look_at(place, target, view.up), focal, now)


def _top(seen: Seen, num_frames: int, fps: float, hw: tuple[int, int]) -> ObserverPath:
    """High above all, its longest side across."""
    del fps
    now, view = _passing(seen, num_frames), seen.view
    middle, places = _held(seen)
    focal = FAR_FOCAL * hw[0]
    local = (places - middle) @ np.stack([*view.axes, view.up]).T
    half = np.abs(local[:, :2]).max(0)
    distance = MARGIN * max(half[0] * focal / (hw[1] / 2), half[1] * focal / (hw[0] / 2)) + local[:, 2].max()
    axes = np.stack([view.axes[0], -view.axes[1], -view.up])
    place = middle + distance * view.up
    observer = np.concatenate([axes, -(axes @ place)[:, None]], axis=1)
    return ObserverPath(np.broadcast_to(observer, (num_frames, 3, 4)), focal, now)


def _held(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle [3] and places [m, 3] that have to be seen: all cameras, and points near them."""
    centres, points = seen.world_from_cam[:, :, 3], seen.points
    axes = np.stack([*seen.view.axes, seen.view.up])
    places = (centres - seen.view.origin) @ axes.T
    if len(points):
        low, high = places.min(0), places.max(0)
        # A few points far beyond path and scene would make both small.
        reach = 0.3 * float((high - low).max()) + seen.depth
        near = np.quantile((points - seen.view.origin) @ axes.T, KEPT, axis=0).clip(low - reach, high + reach)
        corners = np.array([[x, y, z] for x in near[:, 0] for y in near[:, 1] for z in near[:, 2]])
        middle = (corners[0] + corners[-1]) / 2
        # The middle of each side of the points' box, not its corners, where mostly nothing is.
        sides = [middle + sign * (corners[-1] - middle) * unit for unit in np.eye(3) for sign in (-1, 1)]
        places = np.concatenate([places, sides])
    low, high = places.min(0), places.max(0)
    if float((high - low).max()) < 1e-9 * seen.depth:
        places = np.concatenate([places, places[:1] + seen.depth, places[:1] - seen.depth])
    return seen.view.origin + (low + high) / 2 @ axes, seen.view.origin + places @ axes


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


PATHS: dict[str, Callable[[Seen, int, float, tuple[int, int]], ObserverPath]] = {
    "chase": _chase,
    "follow": _follow,
    "orbit": _orbit,
    "top": _top,
}
