"""Poses as data sets write them, turned into cam_from_world with OpenCV axes (x right, y down, z forward).

A change of camera axes multiplies world_from_cam from the right, a change of world axes from the left. Poses are
[S, 3, 4] or [S, 4, 4] float64. Quaternions [S, 4] say their order in their name and need not be normalized. A
`Trajectory` has times of its own and gives the poses of images taken at other times.
Shapes: S poses, P of a trajectory, N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import UserError

# What takes coordinates of an OpenCV camera to those of the same camera with other axes.
MAX_SKEW = 1e-2  # of a rotation's product with its transpose, from the identity: files keep few digits
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])  # x right, y up, z backward (OpenGL, Blender, nerfstudio)
NED_FROM_OPENCV = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # x forward, y right, z down
FLU_FROM_OPENCV = np.array(
    [[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]
)  # x forward, y left, z up (ROS, Waymo vehicle)


def inverted(pose: np.ndarray) -> np.ndarray:
    """b_from_a -> a_from_b for rigid transforms, [S, 3, 4]; the rotation is transposed, not inverted."""
    rotation = pose[..., :3, :3].swapaxes(-1, -2)
    return np.concatenate([rotation, -rotation @ pose[..., :3, 3:4]], -1)


def rigid(transform: np.ndarray, what: str, path: Path) -> np.ndarray:
    """Return a transform [4, 4] if it is rigid. Raises UserError naming it and its file when it is not."""
    rotation = transform[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not error < MAX_SKEW or np.linalg.det(rotation) < 0:
        raise UserError(f"{path}: {what} is no rigid transform; is this the dataset's own layout?")
    return transform


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


@dataclass(frozen=True)
class Trajectory:
    """Poses in order of time, all usable.

    Attributes:
        time: [P] seconds, strictly increasing.
        position: [P, 3] of the moving frame in the world.
        quaternion_xyzw: [P, 4] rotation world_from_moving, of any norm but zero.
    """

    time: np.ndarray
    position: np.ndarray
    quaternion_xyzw: np.ndarray

    @staticmethod
    def of(time: np.ndarray, position: np.ndarray, quaternion_xyzw: np.ndarray, path: Path) -> Trajectory:
        """Sort poses by time and drop those that are not finite, have no rotation or repeat a time.

        Raises UserError naming the file when none is left.
        """
        norm = np.linalg.norm(quaternion_xyzw, axis=1)
        is_finite = np.isfinite(np.column_stack([time, position, quaternion_xyzw])).all(1)
        usable = np.flatnonzero(is_finite & (norm > 0.5))
        _, first = np.unique(time[usable], return_index=True)
        order = usable[first]
        if not len(order):
            raise UserError(f"{path} holds no usable pose; download it again")
        return Trajectory(time[order], position[order], quaternion_xyzw[order])

    def at(self, times: np.ndarray, max_gap_s: float, *, interpolate: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return world_from_moving [N, 3, 4] at some times, and which of them [N] are known.

        Known is a time with a pose at most max_gap_s seconds away. It gets that nearest pose, or with `interpolate`
        the one between its two neighbours (spherical for the rotation); before the first and after the last, theirs.
        """
        nearest = nearest_index(self.time, times)
        known = np.abs(self.time[nearest] - times) <= max_gap_s
        if not interpolate or len(self.time) < 2:
            return pose_from_xyzw(self.quaternion_xyzw[nearest], self.position[nearest]), known
        inside = np.clip(times, self.time[0], self.time[-1])
        position = np.stack([np.interp(inside, self.time, column) for column in self.position.T], -1)
        # counted from the first, so that nanoseconds are not lost in seconds since 1970
        turn = Slerp(self.time - self.time[0], Rotation.from_quat(self.quaternion_xyzw))
        return pose_from_xyzw(turn(inside - self.time[0]).as_quat(), position), known


def read_tum(path: Path) -> Trajectory:
    """Read lines `timestamp tx ty tz qx qy qz qw`. Raises UserError naming the file when it is something else."""
    table = read_table(path, 8, is_finite=False)
    return Trajectory.of(table[:, 0], table[:, 1:4], table[:, 4:], path)


def nearest_index(sorted_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For each of times [N] the index of the nearest in sorted_times [P], P > 0; the earlier one of two."""
    after = np.clip(np.searchsorted(sorted_times, times), 1, max(len(sorted_times) - 1, 1))
    if len(sorted_times) == 1:
        return np.zeros(len(times), np.int64)
    before = after - 1
    return np.where(times - sorted_times[before] <= sorted_times[after] - times, before, after)


def paired(times_a: np.ndarray, times_b: np.ndarray, max_gap_s: float) -> np.ndarray:
    """For each of times_a [N] the index of its partner in times_b, or -1; both sorted.

    Partners are each other's nearest and at most max_gap_s apart, so none is taken twice.
    """
    if not len(times_a) or not len(times_b):
        return np.full(len(times_a), -1)
    partner = nearest_index(times_b, times_a)
    is_mutual = nearest_index(times_a, times_b)[partner] == np.arange(len(times_a))
    return np.where(is_mutual & (np.abs(times_b[partner] - times_a) <= max_gap_s), partner, -1)
