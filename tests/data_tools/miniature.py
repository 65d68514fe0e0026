"""A small synthetic scene with known geometry, to be written in the layout of any data set.

A room with a few boxes, painted in random squares, seen by a camera that moves and turns about all axes. Everything
is closed form: a ray meets the nearest of some axis-aligned boxes. World: y down, metres. Camera: OpenCV axes, pixel
centres at half integers. Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

ROOM = np.array([[-4.0, -2.5, -3.0], [4.0, 1.5, 7.0]])
BOXES = np.array(
    [
        [[-3.0, 0.0, 3.0], [-1.8, 1.5, 4.2]],
        [[-0.4, 0.5, 4.0], [0.6, 1.5, 5.0]],
        [[1.4, -0.6, 2.8], [2.4, 1.5, 3.6]],
        [[-1.2, -2.5, 5.2], [-0.8, 1.5, 5.6]],
    ]
)
SQUARE_M = 0.17
SKY_COLOUR = (150, 190, 235)


@dataclass(frozen=True)
class Miniature:
    """What a camera saw, and where it was.

    images [S, H, W, 3] uint8; depth [S, H, W] float64 z coordinate and length [S, H, W] along the ray, inf for sky;
    cam_from_world [S, 3, 4]; intrinsics [S, 4] fx fy cx cy; timestamp [S] seconds; has_sky: no ceiling nor far wall.
    """

    images: np.ndarray
    depth: np.ndarray
    length: np.ndarray
    cam_from_world: np.ndarray
    intrinsics: np.ndarray
    timestamp: np.ndarray
    has_sky: bool = False

    @property
    def num_frames(self) -> int:
        return len(self.images)

    @property
    def hw(self) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    @property
    def world_from_cam(self) -> np.ndarray:
        """[S, 4, 4]."""
        return np.linalg.inv(homogeneous(self.cam_from_world))

    def moved(self, new_from_world: np.ndarray) -> Miniature:
        """The same in another world frame: new_from_world [4, 4], rigid."""
        poses = homogeneous(self.cam_from_world) @ np.linalg.inv(new_from_world)
        return replace(self, cam_from_world=poses[:, :3])

    def from_first(self) -> Miniature:
        """The same in the world frame of the first camera."""
        return self.moved(homogeneous(self.cam_from_world)[0])


def make_miniature(
    num_frames: int = 12,
    hw: tuple[int, int] = (120, 160),
    focal: tuple[float, float] = (130.0, 128.0),
    centre_offset: tuple[float, float] = (2.3, -1.7),
    rays: np.ndarray | None = None,
    has_sky: bool = False,
    step_m: float = 0.12,
) -> Miniature:
    """Render the scene.

    Args:
        num_frames, hw: how much.
        focal: fx, fy in pixels.
        centre_offset: of the principal point from the image centre, x and y in pixels.
        rays: [H, W, 3] directions with z = 1 in the camera through each pixel's centre, for cameras with a lens (or
            [S, H, W, 3] when they differ); None: those of the pinhole.
        has_sky: whether the ceiling and the far wall are open.
        step_m: way between frames.
    """
    intrinsics = np.array([*focal, hw[1] / 2 + centre_offset[0], hw[0] / 2 + centre_offset[1]])
    poses = camera_path(num_frames, step_m)
    if rays is None:
        rays = pinhole_rays(intrinsics, hw)
    rays = np.broadcast_to(rays, (num_frames, *hw, 3))
    frames = [render(pose, ray, has_sky=has_sky) for pose, ray in zip(poses, rays, strict=True)]
    images, depth, length = (np.stack(values) for values in zip(*frames, strict=True))
    return Miniature(
        images=images,
        depth=depth,
        length=length,
        cam_from_world=poses,
        intrinsics=np.tile(intrinsics, (num_frames, 1)),
        timestamp=100.0 + 0.1 * np.arange(num_frames),
        has_sky=has_sky,
    )


def camera_path(num_frames: int, step_m: float) -> np.ndarray:
    """Cameras that go sideways and forward, up and down, and turn about all axes; cam_from_world [S, 3, 4]."""
    t = np.arange(num_frames)
    position = np.stack([step_m * (t - num_frames / 2), 0.25 * np.sin(0.7 * t), 0.5 * step_m * t], -1)
    angles = np.stack([4 * np.sin(0.5 * t + 1), 9 * np.sin(0.35 * t), 5 * np.cos(0.6 * t)], -1)
    world_from_cam = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    rotation = world_from_cam.transpose(0, 2, 1)
    return np.concatenate([rotation, -rotation @ position[..., None]], -1)


def pinhole_rays(intrinsics: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Directions [H, W, 3] with z = 1 through the centres of the pixels."""
    fx, fy, cx, cy = intrinsics
    x, y = np.meshgrid((np.arange(hw[1]) + 0.5 - cx) / fx, (np.arange(hw[0]) + 0.5 - cy) / fy)
    return np.stack([x, y, np.ones_like(x)], -1)


def render(
    cam_from_world: np.ndarray, rays: np.ndarray, *, has_sky: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image [H, W, 3] uint8, z coordinate and ray length [H, W] (inf for sky) along rays [H, W, 3] with z = 1.

    The image is the mean over a quincunx of rays, so that squares have soft edges.
    """
    t = _cast(cam_from_world, rays, has_sky=has_sky)
    across, down = np.gradient(rays, axis=1), np.gradient(rays, axis=0)
    colour = np.zeros_like(rays)
    offsets = [(a, b) for a in (-0.25, 0.25) for b in (-0.25, 0.25)]
    for a, b in offsets:
        sample = rays + a * across + b * down
        colour += _paint(cam_from_world, sample, _cast(cam_from_world, sample, has_sky=has_sky))
    image = (colour / len(offsets) + 0.5).astype(np.uint8)
    return image, t, t * np.linalg.norm(rays, axis=-1)


def homogeneous(pose: np.ndarray) -> np.ndarray:
    """[..., 3, 4] -> [..., 4, 4]."""
    last = np.broadcast_to([0.0, 0, 0, 1], (*pose.shape[:-2], 1, 4))
    return np.concatenate([pose, last], -2)


def _cast(cam_from_world: np.ndarray, rays: np.ndarray, *, has_sky: bool) -> np.ndarray:
    """z coordinate of the first surface [H, W]. Axes are kept apart: reductions over three numbers are slow."""
    rotation = cam_from_world[:, :3]
    position = -rotation.T @ cam_from_world[:, 3]
    direction = [rays @ rotation[:, axis] for axis in range(3)]
    inverse = [1 / np.where(np.abs(along) < 1e-12, 1e-12, along) for along in direction]

    def crossings(box: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """z at which a ray enters and leaves the slab of each axis."""
        low, high = ([(side[a] - position[a]) * inverse[a] for a in range(3)] for side in box)
        pairs = list(zip(low, high, strict=True))
        return [np.minimum(*pair) for pair in pairs], [np.maximum(*pair) for pair in pairs]

    x, y, z = crossings(ROOM)[1]
    t = np.minimum(np.minimum(x, y), z)
    if has_sky:  # the ceiling and the far wall are not there
        is_up, is_far = (y == t) & (direction[1] < 0), (z == t) & (direction[2] > 0)
        t = np.where(is_up | is_far, np.inf, t)
    for box in BOXES:
        enter, leave = crossings(box)
        entry = np.maximum(np.maximum(enter[0], enter[1]), enter[2])
        end = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
        t = np.where((entry > 0) & (entry < end), np.minimum(t, entry), t)
    return t


def _paint(cam_from_world: np.ndarray, rays: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colour [H, W, 3] of what rays meet: a random one per square of two sizes."""
    rotation = cam_from_world[:, :3]
    sky = ~np.isfinite(t)
    points = np.where(sky, 0, t)[..., None] * (rays @ rotation) - rotation.T @ cam_from_world[:, 3]
    colour = np.zeros_like(points)
    for size, weight in ((SQUARE_M, 0.65), (3.1 * SQUARE_M, 0.35)):
        cell = np.floor(points / size + 1e-6).astype(np.int64)
        key = cell @ np.array([73856093, 19349663, 83492791])
        for channel in range(3):
            mixed = (key * 2654435761 + channel * 40503) & 0xFFFFFFFF
            mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
            colour[..., channel] += weight * ((mixed ^ (mixed >> 13)) & 255)
    return np.where(sky[..., None], SKY_COLOUR, colour)
