"""Readings of a sequence: what its numbers are taken to mean, as given or with each usual mistake undone.

The given reading is that of the index; the others are what the numbers would have to mean if a usual mistake had been
made. `cost` orders mistakes: 1 for what happens every day, 2 for what is rare or two mistakes at once, 3 for both. Of
those that explain the data equally well the cheapest are named. Shapes: S frames, N points, P pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.poses import FLU_FROM_OPENCV, NED_FROM_OPENCV, OPENGL_FROM_OPENCV, inverted
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.data.io.frame_io import frame_camera
from scal3r_train.data.sequence import SequenceRecord

MAX_SHIFT = 5
MIN_CHANGE = 0.015  # of the long side
AXES = {
    "opengl": ("OpenGL camera axes (x right, y up, z backward)", OPENGL_FROM_OPENCV),
    "ned": ("NED camera axes (x forward, y right, z down)", NED_FROM_OPENCV),
    "flu": ("ROS camera axes (x forward, y left, z up)", FLU_FROM_OPENCV),
    "pytorch3d": ("PyTorch3D camera axes (x left, y up, z forward)", np.diag([-1.0, -1.0, 1.0])),
}


@dataclass(frozen=True)
class DepthReading:
    """What a number of a depth map is taken to mean.

    Attributes:
        scale: z = scale * number.
        ray_power: 0 as given; -1: numbers are ray lengths still to be turned into z; 1: z was taken for ray length.
        flip: "" as given, "rows": stored bottom-up, "columns": mirrored.
        is_inverse: the number is 1 / z.
    """

    scale: float = 1.0
    ray_power: int = 0
    flip: str = ""
    is_inverse: bool = False


@dataclass(frozen=True)
class Reading:
    """Cameras and depth as one reading has them, of undistorted upright images.

    extrinsics [S, 3, 4] cam_from_world, NaN where the reading knows no pose; intrinsics [S, 4] fx fy cx cy in pixels,
    pixel centres at half integers; image_size [S, 2] height, width; depth: how depth maps are read; length_intrinsics
    [S, 4]: those by which ray lengths were turned into z, None when the files hold z.
    """

    extrinsics: np.ndarray
    intrinsics: np.ndarray
    image_size: np.ndarray
    depth: DepthReading = DepthReading()
    length_intrinsics: np.ndarray | None = None

    def with_poses(self, extrinsics: np.ndarray) -> Reading:
        """Return the same with other poses."""
        return replace(self, extrinsics=extrinsics)

    def with_intrinsics(self, intrinsics: np.ndarray) -> Reading:
        """Return the same with other intrinsics."""
        return replace(self, intrinsics=intrinsics)

    def with_translations_times(self, factor: float) -> Reading:
        """Return the same in a world that many times as large."""
        return self.with_poses(
            np.concatenate([self.extrinsics[..., :3], factor * self.extrinsics[..., 3:]], -1)
        )


def given_reading(record: SequenceRecord) -> Reading | None:
    """Return the reading of the index, None when it knows no poses or no intrinsics."""
    if record.cam_from_world is None or record.intrinsics is None:
        return None
    cameras = [frame_camera(record, frame) for frame in range(record.num_frames)]
    intrinsics = [camera.intrinsics for camera in cameras if camera.intrinsics is not None]
    extrinsics = [camera.extrinsics for camera in cameras if camera.extrinsics is not None]
    sizes = np.array([record.upright_hw(frame) for frame in range(record.num_frames)])
    holds_lengths = record.depth_codec in CODECS and CODECS[record.depth_codec].is_ray_length
    return Reading(
        np.stack(extrinsics),
        np.stack(intrinsics),
        sizes,
        length_intrinsics=np.stack(intrinsics) if holds_lengths else None,
    )


def rays(pixels: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Directions [..., 3] with z = 1 of pixels [..., 2] for fx fy cx cy [..., 4]."""
    xy = (pixels - intrinsics[..., 2:]) / intrinsics[..., :2]
    return np.concatenate([xy, np.ones_like(xy[..., :1])], -1)


def z_coordinates(
    reading: Reading, frames: np.ndarray, numbers: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """Depth numbers [P, N] at pixels [P, N, 2] of frames [P] -> z."""
    depth = reading.depth
    z = 1 / numbers if depth.is_inverse else numbers
    if depth.ray_power or reading.length_intrinsics is not None:
        length = np.linalg.norm(rays(pixels, reading.intrinsics[frames, None]), axis=-1)
        z = z * length**depth.ray_power
        if reading.length_intrinsics is not None:
            z = z * np.linalg.norm(rays(pixels, reading.length_intrinsics[frames, None]), axis=-1) / length
    return z * depth.scale


def relative_poses(reading: Reading, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation [P, 3, 3] and translation [P, 3] of b_from_a for pairs [P, 2] of frames."""
    a, b = reading.extrinsics[pairs[:, 0]], reading.extrinsics[pairs[:, 1]]
    rotation = b[:, :, :3] @ a[:, :, :3].swapaxes(1, 2)
    return rotation, b[:, :, 3] - np.einsum("pij,pj->pi", rotation, a[:, :, 3])


@dataclass(frozen=True)
class Hypothesis:
    """A mistake: what to tell the user, and the reading that undoes it.

    Attributes:
        key: short name, stable.
        text: what is wrong, for the message.
        cost: how unusual it is.
        apply: from the given reading to the one that would be right.
        about_depth: whether it leaves the cameras alone.
    """

    key: str
    text: str
    cost: int
    apply: Callable[[Reading], Reading]
    about_depth: bool = False


def with_camera_axes(reading: Reading, other_from_opencv: np.ndarray) -> Reading:
    """Poses given for a camera with other axes -> for one with OpenCV axes."""
    return reading.with_poses(other_from_opencv.T @ reading.extrinsics)


def with_inverted_poses(reading: Reading) -> Reading:
    """Return the reading whose world_from_cam was given as cam_from_world."""
    return reading.with_poses(inverted(reading.extrinsics))


def _inverted_then_axes(reading: Reading, other_from_opencv: np.ndarray) -> Reading:
    return with_camera_axes(with_inverted_poses(reading), other_from_opencv)


def shifted(reading: Reading, num_frames: int) -> Reading:
    """Frame i has the pose that is given for frame i + num_frames; NaN beyond the ends."""
    moved = np.full_like(reading.extrinsics, np.nan)
    source = np.arange(len(moved)) + num_frames
    known = (source >= 0) & (source < len(moved))
    moved[known] = reading.extrinsics[source[known]]
    return reading.with_poses(moved)


def pose_hypotheses(*, is_ordered: bool) -> Iterator[Hypothesis]:
    """Yield wrong readings of the poses."""
    yield Hypothesis(
        "inverted", "the poses are inverted (world_from_cam taken for cam_from_world)", 1, with_inverted_poses
    )
    for key, (name, axes) in AXES.items():
        yield Hypothesis(
            key, f"{name} were not converted", 1, partial(with_camera_axes, other_from_opencv=axes)
        )
        yield Hypothesis(
            f"inverted+{key}",
            f"the poses are inverted, and {name} were not converted",
            2,
            partial(_inverted_then_axes, other_from_opencv=axes),
        )
    yield from _mixed_up_parts()
    if is_ordered:
        for num in (n for size in range(1, MAX_SHIFT + 1) for n in (size, -size)):
            frames = f"{abs(num)} frame{'s' if abs(num) > 1 else ''}"
            yield Hypothesis(
                f"shift{num:+d}",
                f"the poses are shifted in time: each belongs to the image {frames} "
                + ("earlier" if num > 0 else "later"),
                1,
                partial(shifted, num_frames=num),
            )
    yield from _unnamed_axes()


def depth_hypotheses() -> Iterator[Hypothesis]:
    """Yield wrong readings of depth maps."""
    for key, text, cost, change in (
        ("ray_for_z", "depth holds ray lengths that are read as z", 1, {"ray_power": -1}),
        ("z_for_ray", "depth holds z that is read as ray length", 1, {"ray_power": 1}),
        ("bottom_up", "depth maps are upside down (rows stored bottom-up)", 1, {"flip": "rows"}),
        ("mirrored_depth", "depth maps are mirrored left to right", 2, {"flip": "columns"}),
        ("disparity", "depth maps hold inverse depth (disparity)", 2, {"is_inverse": True}),
    ):
        yield Hypothesis(key, text, cost, partial(_with_depth, change=change), True)


def _with_depth(given: Reading, change: dict[str, Any]) -> Reading:
    """Depth read otherwise, on top of what the given reading does to it."""
    depth = replace(given.depth, **change)
    if "ray_power" in change:
        depth = replace(depth, ray_power=given.depth.ray_power + change["ray_power"])
    if "flip" in change:
        depth = replace(depth, flip=change["flip"] if not given.depth.flip else "")
    if "is_inverse" in change:
        depth = replace(depth, is_inverse=not given.depth.is_inverse)
    return replace(given, depth=depth)


def intrinsics_hypotheses(given: Reading) -> Iterator[Hypothesis]:
    """Yield wrong readings of the intrinsics that have no parameter, where they would change anything."""
    for key, text, order in (
        ("fx_fy", "fx and fy are swapped", [1, 0, 2, 3]),
        ("cx_cy", "cx and cy are swapped", [0, 1, 3, 2]),
        ("xy", "fx, fy and cx, cy are swapped (rows and columns mixed up)", [1, 0, 3, 2]),
    ):
        if _differs(given.intrinsics[:, order], given):
            yield Hypothesis(key, text, 1, partial(_reordered_intrinsics, order=order))
    if _differs(_centred(given).intrinsics, given):
        yield Hypothesis(
            "centre", "the principal point is not where it is given but near the image centre", 1, _centred
        )


def _reordered_intrinsics(given: Reading, order: list[int]) -> Reading:
    return given.with_intrinsics(given.intrinsics[:, order])


def _differs(intrinsics: np.ndarray, given: Reading) -> bool:
    """Whether intrinsics differ by more than cameras are known."""
    change = np.abs(intrinsics - given.intrinsics).max(1) / given.image_size.max(1)
    return bool(np.median(change) > MIN_CHANGE)


def _centred(given: Reading) -> Reading:
    centre = given.image_size[:, ::-1] / 2
    return given.with_intrinsics(np.concatenate([given.intrinsics[:, :2], centre], -1))


def _mixed_up_parts() -> Iterator[Hypothesis]:
    """Rotation and translation of different senses, and quaternions in the wrong order."""

    def rotation_inverted(given: Reading) -> Reading:
        return given.with_poses(
            np.concatenate([given.extrinsics[..., :3].swapaxes(1, 2), given.extrinsics[..., 3:]], -1)
        )

    def position_as_translation(given: Reading) -> Reading:
        rotation = given.extrinsics[..., :3]
        return given.with_poses(np.concatenate([rotation, -rotation @ given.extrinsics[..., 3:]], -1))

    yield Hypothesis(
        "rotation_inverted", "the rotations are inverted, the translations are not", 1, rotation_inverted
    )
    yield Hypothesis(
        "position_as_translation",
        "camera positions are taken for translations of cam_from_world",
        1,
        position_as_translation,
    )
    yield Hypothesis(
        "rotation_inverted_in_place",
        "the rotations are inverted, the camera positions are not",
        1,
        lambda given: with_inverted_poses(rotation_inverted(with_inverted_poses(given))),
    )
    for name, turn in (("wxyz read as xyzw", -1), ("xyzw read as wxyz", 1)):
        text = f"quaternions are in the wrong order ({name})"
        key = f"quaternion_{name[:4]}"
        for axes_key, axes in (("", np.eye(3)), *((f"+{key}", axes) for key, (_, axes) in AXES.items())):
            for in_place in (True, False):
                yield Hypothesis(
                    f"{key}{axes_key}",
                    text,
                    1 if not axes_key else 2,
                    partial(_requaternioned, turn=turn, axes=axes, in_place=in_place),
                )


def _requaternioned(given: Reading, turn: int, axes: np.ndarray, *, in_place: bool) -> Reading:
    """Rotations whose four numbers were read in another order, before camera axes were converted.

    in_place: positions of the cameras are right (world_from_cam was read), else translations of cam_from_world are.
    """
    poses = inverted(given.extrinsics) if in_place else given.extrinsics
    known = np.isfinite(poses).all((1, 2))
    rotation = poses[known, :, :3] @ axes.T if in_place else axes @ poses[known, :, :3]
    corrected = Rotation.from_quat(
        np.roll(Rotation.from_matrix(rotation).as_quat(), turn, axis=-1)
    ).as_matrix()
    result = np.full_like(poses, np.nan)
    result[known, :, :3] = corrected @ axes if in_place else axes.T @ corrected
    result[known, :, 3] = poses[known, :, 3]
    return given.with_poses(inverted(result) if in_place else result)


def _unnamed_axes() -> Iterator[Hypothesis]:
    """Every other choice of camera axes, and positions in other world axes than the rotations."""
    known = [np.eye(3), *(axes for _, axes in AXES.values())]
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.diag(signs)[:, list(order)]
            name = ", ".join(f"{axis} {_direction(matrix[place])}" for place, axis in enumerate("xyz"))
            if np.linalg.det(matrix) > 0 and not any(np.array_equal(matrix, other) for other in known):
                yield Hypothesis(
                    f"axes:{name}",
                    f"camera axes ({name}) were not converted",
                    2,
                    partial(with_camera_axes, other_from_opencv=matrix),
                )
                yield Hypothesis(
                    f"inverted+axes:{name}",
                    f"the poses are inverted, and camera axes ({name}) were not converted",
                    3,
                    partial(_inverted_then_axes, other_from_opencv=matrix),
                )
            if not np.array_equal(matrix, np.eye(3)):
                yield Hypothesis(
                    f"positions:{name}",
                    f"camera positions have other world axes ({name}) than the rotations",
                    2,
                    partial(_moved_positions, matrix=matrix),
                )


def _moved_positions(given: Reading, matrix: np.ndarray) -> Reading:
    world_from_cam = inverted(given.extrinsics)
    position = matrix.T @ world_from_cam[..., 3:]
    return given.with_poses(inverted(np.concatenate([world_from_cam[..., :3], position], -1)))


def _direction(row: np.ndarray) -> str:
    """Where an axis points, for the row of other_from_opencv."""
    names = (("right", "left"), ("down", "up"), ("forward", "backward"))
    place = int(np.abs(row).argmax())
    return names[place][0 if row[place] > 0 else 1]
