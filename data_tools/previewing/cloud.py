"""The point cloud of a few frames that look at the same: where depth and poses disagree, surfaces are doubled.

Shapes: K frames, N points, S frames of the sequence; world frame and unit are those of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scal3r_data_tools.previewing.shown_frames import ShownFrame, frames_with_depth, read_shown
from scal3r_train.data.frame_io import upright_poses
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.transforms import intrinsics_matrices
from scal3r_train.geometry.pointmap import world_points_from_depth
from scal3r_train.geometry.view import positions

REACH = 0.5  # of the median depth, that a camera may be away from the middle one
MAX_TURN_DEG = 45.0
MAX_DEPTH = 4.0  # times the median depth; what is farther would make the rest small
MAX_SLANT = 40.0  # times the size of a pixel, up to which neighbours are taken as one surface
FRAME_BOX = (320, 320)


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
