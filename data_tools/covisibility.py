"""Which frames of an unordered scene see the same, from poses and depth, or from frustums where there is no depth.

The covisibility of i and j is sqrt(s_ij s_ji), s_ij the share of a grid of points seen by i that fall into the image of
j, in front of it and, where j has depth there, not behind what j sees. Without depth the points lie on the rays of the
grid at several distances about that of the scene, which is where the optical axes of all cameras come closest.
Shapes: S frames, P points.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.jobs import progress
from scal3r_train.config import UserError
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth
from scal3r_train.data.sequence import SequenceRecord

GRID = (12, 16)  # rows, columns
DISTANCES = (0.6, 1.0, 1.6)  # of the scene's, where there is no depth
MIN_COVISIBILITY = 0.1
MAX_BEHIND = 0.1  # of the depth, beyond which a point counts as hidden
NUM_THREADS = 4


@dataclass(frozen=True)
class _Views:
    """Cameras [S], points [S, P, 3] in each camera and which are valid [S, P], coarse depth [S, rows, columns]."""

    cam_from_world: np.ndarray
    intrinsics: np.ndarray
    sizes: np.ndarray
    points: np.ndarray
    is_valid: np.ndarray
    depth: np.ndarray


def covisible_frames(record: SequenceRecord, num_neighbours: int) -> np.ndarray:
    """Return the frames that see most of what each frame sees, best first: [S, num_neighbours] int64, -1 for none.

    The sequence has poses and intrinsics. A depth file that cannot be read counts as none.
    """
    views = _views(record)
    share = np.stack(
        [_shares(views, i) for i in progress(range(record.num_frames), record.num_frames, "covisible")]
    )
    mutual = np.sqrt(share * share.T)
    np.fill_diagonal(mutual, 0)
    order = np.argsort(-mutual, axis=1, kind="stable")[:, :num_neighbours]
    found = np.where(np.take_along_axis(mutual, order, 1) >= MIN_COVISIBILITY, order, -1)
    missing = num_neighbours - found.shape[1]
    return np.pad(found, ((0, 0), (0, max(missing, 0))), constant_values=-1)


def scene_distance(cam_from_world: np.ndarray) -> float:
    """Median distance of cameras [S, 3, 4] to the point that is closest to all optical axes; 1 if there is none."""
    rotation = cam_from_world[:, :, :3]
    centre = -np.einsum("sji,sj->si", rotation, cam_from_world[:, :, 3])
    axis = rotation[:, 2]
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]
    point = np.linalg.lstsq(across.sum(0), np.einsum("sij,sj->i", across, centre), rcond=1e-6)[0]
    distance = float(np.median(np.linalg.norm(point - centre, axis=-1)))
    return distance if distance > 0 else 1.0


def _views(record: SequenceRecord) -> _Views:
    cameras = [frame_camera(record, frame) for frame in range(record.num_frames)]
    poses = np.array([camera.extrinsics for camera in cameras])
    intrinsics = np.array([camera.intrinsics for camera in cameras])
    sizes = np.array([record.upright_hw(frame) for frame in range(record.num_frames)], float)
    if record.depth:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            depth = np.stack(
                list(pool.map(lambda frame: _coarse_depth(record, frame), range(record.num_frames)))
            )
    else:
        depth = np.zeros((record.num_frames, *GRID))
    rows, columns = ((np.arange(num) + 0.5) / num for num in GRID)
    u, v = (part.ravel() for part in np.meshgrid(columns, rows))
    x = (u * sizes[:, 1:] - intrinsics[:, 2:3]) / intrinsics[:, 0:1]
    y = (v * sizes[:, :1] - intrinsics[:, 3:4]) / intrinsics[:, 1:2]
    rays = np.stack([x, y, np.ones_like(x)], -1)
    measured = depth.reshape(len(depth), -1)
    has_depth = np.asarray((measured > 0).any(1))
    guessed = scene_distance(poses) * np.array(DISTANCES)
    guesses = (rays[:, None] * guessed[:, None, None]).reshape(len(rays), -1, 3)[:, :: len(DISTANCES)]
    points = np.where(has_depth[:, None, None], rays * measured[..., None], guesses)
    return _Views(poses, intrinsics, sizes, points, (measured > 0) | ~has_depth[:, None], depth)


def _coarse_depth(record: SequenceRecord, frame: int) -> np.ndarray:
    """Depth at the points of the grid, nearest value; zero where there is none."""
    try:
        depth = read_frame_depth(record, frame)
    except UserError:
        depth = None
    if depth is None:
        return np.zeros(GRID)
    places = [
        ((np.arange(num) + 0.5) / num * side).astype(int) for num, side in zip(GRID, depth.shape, strict=True)
    ]
    return np.maximum(depth[np.ix_(*places)], 0)


def _shares(views: _Views, i: int) -> np.ndarray:
    """s_ij for all j, [S]."""
    points = views.points[i][views.is_valid[i]]
    if len(points) == 0:
        return np.zeros(len(views.points))
    rotation = views.cam_from_world[i, :, :3]
    world = (points - views.cam_from_world[i, :, 3]) @ rotation
    moved = world @ views.cam_from_world[:, :, :3].transpose(0, 2, 1) + views.cam_from_world[:, None, :, 3]
    z = moved[..., 2]
    front = z > 1e-9
    plane = moved[..., :2] / np.where(front, z, 1)[..., None]
    uv = (plane * views.intrinsics[:, None, :2] + views.intrinsics[:, None, 2:]) / views.sizes[:, None, ::-1]
    inside = front & ((uv >= 0) & (uv < 1)).all(-1)
    row, column = ((np.clip(uv[..., axis], 0, 1 - 1e-9) * GRID[1 - axis]).astype(int) for axis in (1, 0))
    seen = views.depth[np.arange(len(z))[:, None], row, column]
    hidden = (seen > 0) & (z > seen * (1 + MAX_BEHIND))
    return (inside & ~hidden).mean(1)
