"""Poses as data sets write them, turned into cam_from_world with OpenCV axes (x right, y down, z forward).

A change of camera axes multiplies world_from_cam from the right, a change of world axes from the left. Poses are
[S, 3, 4] or [S, 4, 4] float64. Quaternions [S, 4] say their order in their name and need not be normalized.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

# What takes coordinates of an OpenCV camera to those of the same camera with other axes.
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])  # x right, y up, z backward (OpenGL, Blender, nerfstudio)
NED_FROM_OPENCV = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # x forward, y right, z down
FLU_FROM_OPENCV = np.array(
    [[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]
)  # x forward, y left, z up (ROS, Waymo vehicle)


def inverted(pose: np.ndarray) -> np.ndarray:
    """b_from_a -> a_from_b for rigid transforms, [S, 3, 4]; the rotation is transposed, not inverted."""
    rotation = pose[..., :3, :3].swapaxes(-1, -2)
    return np.concatenate([rotation, -rotation @ pose[..., :3, 3:4]], -1)


def opencv_world_from_cam(world_from_cam: np.ndarray, other_from_opencv: np.ndarray) -> np.ndarray:
    """world_from_cam of a camera with other axes -> with OpenCV axes, [S, 3, 4]."""
    return np.concatenate([world_from_cam[..., :3, :3] @ other_from_opencv, world_from_cam[..., :3, 3:4]], -1)


def pose_from_xyzw(quaternion_xyzw: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Rotations [S, 4] and translations [S, 3] -> [S, 3, 4]."""
    rotation = Rotation.from_quat(np.asarray(quaternion_xyzw, np.float64)).as_matrix()
    return np.concatenate([rotation, np.asarray(translation, np.float64)[..., None]], -1)


def pose_from_wxyz(quaternion_wxyz: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Rotations [S, 4] and translations [S, 3] -> [S, 3, 4]."""
    return pose_from_xyzw(np.roll(quaternion_wxyz, -1, axis=-1), translation)
