"""The point cloud of a few frames that look at the same: where depth and poses disagree, surfaces are doubled.

It is drawn from behind its cameras and from above, with its cameras as wire frames. Shapes: K frames, N points, S
frames of the sequence, H W pixels; world frame and unit are those of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from scal3r_data_tools.previewing.shown_frames import ShownFrame, frames_with_depth, read_shown
from scal3r_train.data.io.frame_io import upright_poses
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices, world_points_from_depth
from scal3r_train.geometry.drawing import View, positions, shaded, splat

REACH = 0.5  # of the median depth, that a camera may be away from the middle one
MAX_TURN_DEG = 45.0
MAX_DEPTH = 4.0  # times the median depth; what is farther would make the rest small
MAX_SLANT = 40.0  # times the size of a pixel, up to which neighbours are taken as one surface
FRAME_BOX = (320, 320)
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


@dataclass(frozen=True)
class Cloud:
    """Points of K frames.

    Attributes:
        points: [N, 3] float64 world.
        colours: [N, 3] uint8, of the images.
        spacing: [N] distance to the points of the neighbouring pixels.
        frames: K numbers; the first is the middle frame.
        cam_from_world: [K, 3, 4] float64.
        tan_half_fov: [2] of the middle frame, horizontal and vertical.
        median_depth: of the middle frame.
    """

    points: np.ndarray
    colours: np.ndarray
    spacing: np.ndarray
    frames: tuple[int, ...]
    cam_from_world: np.ndarray
    tan_half_fov: np.ndarray
    median_depth: float


def read_cloud(record: SequenceRecord, middle: int, num_frames: int) -> Cloud | str:
    """Return the cloud of a frame with depth and of others near it, or why there is none."""
    if not record.depth:
        return "no depth"
    if record.cam_from_world is None or record.intrinsics is None:
        return "no poses" if record.cam_from_world is None else "no intrinsics"
    first = read_shown(record, middle, FRAME_BOX)
    if not first.has_depth or first.depth is None:
        return first.fault or f"frame {middle} has no valid depth"
    median = float(np.median(first.depth[first.depth > 0]))
    others = [frame for frame in cloud_frames(record, middle, num_frames, median) if frame != middle]
    shown = [first, *(read_shown(record, frame, FRAME_BOX) for frame in others)]
    return _cloud([frame for frame in shown if frame.has_depth], median)


def cloud_frames(record: SequenceRecord, middle: int, num_frames: int, median_depth: float) -> list[int]:
    """Return up to `num_frames` frames with depth that see what frame `middle` sees, sorted.

    Those are its covisible frames where the sequence is unordered; else they are spread over the run of frames around
    it whose cameras are near, measured by its median depth, and look the same way.
    """
    usable = frames_with_depth(record)
    if record.covisible is not None:
        others = record.covisible[middle]
        return sorted([middle, *others[np.isin(others, usable)][: num_frames - 1].tolist()])
    poses = upright_poses(record)[usable]
    place = int(np.searchsorted(usable, middle))
    distance = np.linalg.norm(positions(poses) - positions(poses)[place], axis=-1)
    turn = poses[:, 2, :3] @ poses[place, 2, :3]
    far = np.flatnonzero((distance > REACH * median_depth) | (turn < np.cos(np.radians(MAX_TURN_DEG))))
    begin = max(far[far < place], default=-1) + 1
    end = min(far[far > place], default=len(usable))
    spread = np.linspace(begin, end - 1, num_frames).round().astype(int)
    spread[np.argmin(np.abs(spread - place))] = place
    return sorted(set(usable[spread].tolist()))


def _cloud(shown: Sequence[ShownFrame], median: float) -> Cloud:
    points, colours, spacing = [], [], []
    for frame in shown:
        assert frame.depth is not None, "has_depth"
        assert frame.image is not None, "has_depth"
        assert frame.intrinsics is not None, "the record has intrinsics"
        assert frame.cam_from_world is not None, "the record has poses"
        depth = torch.from_numpy(frame.depth.astype(np.float64))
        camera = intrinsics_matrices(frame.intrinsics[None])[0]
        world = world_points_from_depth(depth, camera, torch.from_numpy(frame.cam_from_world)).numpy()
        kept = (frame.depth > 0) & (frame.depth < MAX_DEPTH * median)
        points.append(world[kept])
        colours.append(frame.image[kept])
        spacing.append(_spacing(world, frame)[kept])
    first = shown[0]
    assert first.image is not None, "has_depth"
    assert first.intrinsics is not None, "the record has intrinsics"
    return Cloud(
        points=np.concatenate(points),
        colours=np.concatenate(colours),
        spacing=np.concatenate(spacing),
        frames=tuple(frame.index for frame in shown),
        cam_from_world=np.stack([frame.cam_from_world for frame in shown]),
        tan_half_fov=np.array(first.image.shape[1::-1]) / (2 * first.intrinsics[:2]),
        median_depth=median,
    )


def _spacing(points: np.ndarray, frame: ShownFrame) -> np.ndarray:
    """Distance [H, W] of points [H, W, 3] to their neighbours, larger on slanted surfaces; jumps do not count."""
    assert frame.depth is not None, "has_depth"
    assert frame.is_edge is not None, "has_depth"
    assert frame.intrinsics is not None, "the record has intrinsics"
    spacing = frame.depth / frame.intrinsics[0]
    is_inside = (frame.depth > 0) & ~frame.is_edge
    for axis in (0, 1):
        here, inside = np.moveaxis(spacing, axis, 0), np.moveaxis(is_inside, axis, 0)  # views
        step = np.moveaxis(np.linalg.norm(np.diff(points, axis=axis), axis=-1), axis, 0)
        step = np.where(inside[1:] & inside[:-1] & (step < MAX_SLANT * here[:-1]), step, 0)
        here[:-1] = np.maximum(here[:-1], step)
    return spacing


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
