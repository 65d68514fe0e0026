"""Mistakes that data sets are published or read with, as pure functions of a miniature: what a writer is then given is
wrong, so that the real adapter reads wrong data. Each name is the key under which `scal3r data check` must name it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, camera_path, homogeneous, pinhole_rays, render

# other_from_opencv, spelled out again: the library's own must not be tested with itself
CAMERA_AXES = {
    "opengl": np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "ned": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "flu": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "pytorch3d": np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]),
}
ZOOM = 1.35
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def inverted(scene: Miniature) -> Miniature:
    return replace(scene, cam_from_world=np.linalg.inv(homogeneous(scene.cam_from_world))[:, :3])


def inverted_in_file(file_from_world: np.ndarray, axes: str) -> Callable[[Miniature], Miniature]:
    """The matrix that a file holds is inverted, file_from_world @ world_from_cam @ opencv_from_axes [4, 4]."""
    camera = np.eye(4)
    camera[:3, :3] = CAMERA_AXES[axes].T

    def apply(scene: Miniature) -> Miniature:
        in_file = np.linalg.inv(file_from_world @ scene.world_from_cam @ camera)
        world_from_cam = np.linalg.inv(file_from_world) @ in_file @ np.linalg.inv(camera)
        return replace(scene, cam_from_world=np.linalg.inv(world_from_cam)[:, :3])

    return apply


def with_axes(axes: str) -> Callable[[Miniature], Miniature]:
    """Cameras whose axes nobody converts."""
    return lambda scene: replace(scene, cam_from_world=CAMERA_AXES[axes] @ scene.cam_from_world)


def both(*mistakes: Callable[[Miniature], Miniature]) -> Callable[[Miniature], Miniature]:
    def apply(scene: Miniature) -> Miniature:
        for mistake in mistakes:
            scene = mistake(scene)
        return scene

    return apply


def wrong_unit(factor: float) -> Callable[[Miniature], Miniature]:
    """Translations in another unit than depth."""

    def apply(scene: Miniature) -> Miniature:
        poses = scene.cam_from_world.copy()
        poses[:, :, 3] *= factor
        return replace(scene, cam_from_world=poses)

    return apply


def ray_length_as_z(scene: Miniature) -> Miniature:
    return replace(scene, depth=scene.length)


def z_as_ray_length(scene: Miniature) -> Miniature:
    return replace(scene, length=scene.depth)


def bottom_up(scene: Miniature) -> Miniature:
    return replace(scene, depth=scene.depth[:, ::-1], length=scene.length[:, ::-1])


def focal_times(factor: float) -> Callable[[Miniature], Miniature]:
    return lambda scene: replace(scene, intrinsics=scene.intrinsics * [factor, factor, 1, 1])


def intrinsics_times(factor: float) -> Callable[[Miniature], Miniature]:
    """Those of a larger or smaller version of the images."""
    return lambda scene: replace(scene, intrinsics=scene.intrinsics * factor)


def half_pixel(scene: Miniature) -> Miniature:
    return replace(scene, intrinsics=scene.intrinsics - [0, 0, 0.5, 0.5])


def shifted(num: int) -> Callable[[Miniature], Miniature]:
    """Every frame has the pose of the frame `num` later; the last ones that of the last."""

    def apply(scene: Miniature) -> Miniature:
        source = np.clip(np.arange(scene.num_frames) + num, 0, scene.num_frames - 1)
        return replace(scene, cam_from_world=scene.cam_from_world[source])

    return apply


def quaternions_reordered(scene: Miniature) -> Miniature:
    """world_from_cam quaternions written wxyz and read xyzw."""
    poses = np.linalg.inv(homogeneous(scene.cam_from_world))
    xyzw = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    poses[:, :3, :3] = Rotation.from_quat(np.roll(xyzw, 1, axis=-1)).as_matrix()
    return replace(scene, cam_from_world=np.linalg.inv(poses)[:, :3])


def position_as_translation(scene: Miniature) -> Miniature:
    position = np.linalg.inv(homogeneous(scene.cam_from_world))[:, :3, 3]
    return replace(
        scene, cam_from_world=np.concatenate([scene.cam_from_world[:, :, :3], position[..., None]], -1)
    )


def reflected(scene: Miniature) -> Miniature:
    """A left-handed world."""
    return replace(scene, cam_from_world=scene.cam_from_world * np.array([1.0, -1, 1, 1]))


def scale_jump(scene: Miniature) -> Miniature:
    """From the middle on, the camera goes twice as far."""
    poses = np.linalg.inv(homogeneous(scene.cam_from_world))
    middle = scene.num_frames // 2
    poses[middle:, :3, 3] = poses[middle, :3, 3] + 2 * (poses[middle:, :3, 3] - poses[middle, :3, 3])
    return replace(scene, cam_from_world=np.linalg.inv(poses)[:, :3])


def zooming_miniature(num_frames: int = 16, hw: tuple[int, int] = (120, 160)) -> Miniature:
    """A camera that zooms in while it moves."""
    poses, focal = camera_path(num_frames, 0.12), 130 * np.linspace(1, ZOOM, num_frames)
    intrinsics = np.stack([focal, 0.985 * focal, np.full(num_frames, 82.3), np.full(num_frames, 58.3)], -1)
    frames = [render(pose, pinhole_rays(k, hw)) for pose, k in zip(poses, intrinsics, strict=True)]
    images, depth, length = (np.stack(values) for values in zip(*frames, strict=True))
    return Miniature(images, depth, length, poses, intrinsics, 100 + 0.1 * np.arange(num_frames))


def shared_intrinsics(scene: Miniature) -> Miniature:
    """Those of the first frame for all, of a camera that zooms."""
    zooming = zooming_miniature(scene.num_frames)
    return replace(zooming, intrinsics=np.tile(zooming.intrinsics[:1], (zooming.num_frames, 1)))
