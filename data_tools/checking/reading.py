"""A reading of a sequence: what its numbers are taken to mean. The given one is that of the index; the others are what
they would have to mean if a usual mistake had been made. Shapes: S frames, N points, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scal3r_train.data.depth_codec import CODECS
from scal3r_train.data.frame_io import frame_camera
from scal3r_train.data.sequence import SequenceRecord


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
