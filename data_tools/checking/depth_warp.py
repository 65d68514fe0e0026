"""Whether the depth maps of two frames agree: points of one, moved into the other, must lie on what that one sees.

The error of a point is |z' - z| / z: z' its depth in the other camera, z the depth map there, bilinear, where the map
is one smooth piece. A pair's error is the median over points in both directions; occluded points are the minority.
Shapes: H W pixels of a map, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.checking.readings import Reading, rays, relative_poses, z_coordinates
from scal3r_train.data.io.frame_io import read_frame_depth
from scal3r_train.data.sequence import SequenceRecord

MAX_SIDE = 1024
MAX_BEND = 0.04  # relative second difference of inverse depth: more is the edge of an object, or noise
FLIPS = ("", "rows", "columns")
Motion = tuple[np.ndarray, np.ndarray]  # second_from_first: rotation [3, 3], translation [3]
NUM_POINTS = 2000
MIN_OVERLAP = 0.1
MIN_OVERLAPPING_POINTS = 50


@dataclass(frozen=True)
class DepthView:
    """A depth map [H, W], 0 where nothing is known, and its place in the image: pixel = first + step * index."""

    numbers: np.ndarray
    first: np.ndarray
    step: np.ndarray

    def pixels(self) -> np.ndarray:
        """Image pixels [H, W, 2] of the entries."""
        height, width = self.numbers.shape
        index = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        return self.first + self.step * index

    def sample(self, pixels: np.ndarray, flip: str = "") -> np.ndarray:
        """Depth [N] at image pixels [N, 2]; NaN outside and where the surface is not one smooth piece.

        Inverse depth is interpolated bilinearly, which is exact on planes; of the 4 x 4 entries around none may leave
        a straight line. flip: "rows" or "columns" reads the map upside down or mirrored.
        """
        numbers = {"": self.numbers, "rows": self.numbers[::-1], "columns": self.numbers[:, ::-1]}[flip]
        height, width = numbers.shape
        if min(height, width) < 4:
            return np.full(len(pixels), np.nan)
        place = (pixels - self.first) / self.step
        place = np.where(np.isfinite(place), place, -10)
        place = np.clip(place, -10, max(height, width) + 10)
        low = np.floor(place).astype(int)
        inside = ((low >= 1) & (low + 2 < [width, height])).all(-1)
        low = np.where(inside[:, None], low, 1)
        offsets = np.arange(-1, 3)
        around = numbers[
            low[:, 1, None, None] + offsets[:, None], low[:, 0, None, None] + offsets
        ]  # [N, 4, 4]
        lowest = around.min((1, 2))
        inverse = 1 / np.where(lowest[:, None, None] > 0, around, 1)
        four = inverse[:, 1:3, 1:3]
        weight = place - low
        rows = four[:, 0] * (1 - weight[:, 1:]) + four[:, 1] * weight[:, 1:]
        value = rows[:, 0] * (1 - weight[:, 0]) + rows[:, 1] * weight[:, 0]
        bend = np.maximum(
            np.abs(np.diff(inverse, 2, axis=1)).max((1, 2)), np.abs(np.diff(inverse, 2, axis=2)).max((1, 2))
        )
        smooth = inside & (lowest > 0) & (bend < MAX_BEND * np.abs(value))
        return np.where(smooth, 1 / np.where(smooth, value, 1), np.nan)


def read_view(record: SequenceRecord, frame: int) -> DepthView | None:
    """Read the depth of a frame, thinned out to MAX_SIDE; None without. Raises UserError naming a bad file."""
    depth = read_frame_depth(record, frame)
    if depth is None:
        return None
    step = -(-max(depth.shape) // MAX_SIDE)
    height, width = record.upright_hw(frame)
    per_entry = np.array([width / depth.shape[1], height / depth.shape[0]])
    thin = np.maximum(depth[step // 2 :: step, step // 2 :: step], 0).astype(np.float32)
    # flipped maps are aligned only when whole steps fit; the shift of a fraction of an entry does not matter for that
    return DepthView(thin, (step // 2 + 0.5) * per_entry, step * per_entry)


def warp_errors(
    reading: Reading, views: dict[int, DepthView], pairs: list[tuple[int, int]], num_points: int = NUM_POINTS
) -> np.ndarray:
    """Return the median relative error [P] of pairs; NaN where too few points of one meet the other."""
    if not pairs:
        return np.zeros(0)
    array = np.array(pairs)
    forward = relative_poses(reading, array)
    backward = relative_poses(reading, array[:, ::-1])
    errors = np.full(len(pairs), np.nan)
    for row, (a, b) in enumerate(pairs):
        if a not in views or b not in views:
            continue
        found = [
            _point_errors(reading, views, (i, j), (motion[0][row], motion[1][row]), num_points)
            for (i, j), motion in (((a, b), forward), ((b, a), backward))
        ]
        both = np.concatenate(found)
        if np.isfinite(both).sum() >= max(MIN_OVERLAP * len(both), MIN_OVERLAPPING_POINTS):
            errors[row] = np.nanmedian(both)
    return errors


def warp_error_map(reading: Reading, views: dict[int, DepthView], pair: tuple[int, int]) -> np.ndarray:
    """Return the signed relative error (z' - z) / z [H, W] at every entry of the first frame's depth; NaN: unknown."""
    rotations, translations = relative_poses(reading, np.array([pair]))
    view = views[pair[0]]
    pixels = view.pixels().reshape(-1, 2)
    numbers = view.sample(pixels, reading.depth.flip)
    errors = _signed_errors(reading, views, pair, (rotations[0], translations[0]), pixels, numbers)
    return errors.reshape(view.numbers.shape)


def _point_errors(
    reading: Reading,
    views: dict[int, DepthView],
    pair: tuple[int, int],
    motion: Motion,
    num_points: int,
) -> np.ndarray:
    """Errors [N] of points on a grid over the first frame; NaN where they meet nothing."""
    view = views[pair[0]]
    step = max(round((view.numbers.size / num_points) ** 0.5), 1)
    pixels = view.pixels()[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    numbers = view.sample(pixels, reading.depth.flip)
    usable = np.isfinite(numbers)
    return np.abs(_signed_errors(reading, views, pair, motion, pixels[usable], numbers[usable]))


def _signed_errors(
    reading: Reading,
    views: dict[int, DepthView],
    pair: tuple[int, int],
    motion: Motion,
    pixels: np.ndarray,
    numbers: np.ndarray,
) -> np.ndarray:
    """Errors (z' - z) / z [N] of points of the first frame, at pixels [N, 2] with depth numbers [N]; NaN: unknown."""
    rotation, translation = motion
    k_a, k_b = reading.intrinsics[pair[0]], reading.intrinsics[pair[1]]
    z = z_coordinates(reading, np.array([pair[0]]), numbers[None], pixels[None])[0]
    moved = rays(pixels, k_a) * z[:, None] @ rotation.T + translation
    z = np.where(moved[:, 2] > 0, moved[:, 2], np.nan)
    there = moved[:, :2] / z[:, None] * k_b[:2] + k_b[2:]
    seen = views[pair[1]].sample(there, reading.depth.flip)
    expected = z_coordinates(reading, np.array([pair[1]]), seen[None], there[None])[0]
    return (z - expected) / expected
