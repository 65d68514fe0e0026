"""Which frames of a scene see the same things, so that features are matched between those only.

Every frame is paired with its neighbours in time, and with frames in which many of its own points fall into the image,
seen from a like direction and distance: so loops are found without looking at an image. Shapes: S frames, n points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import positions_of
from scal3r_train.scene.scene import SceneCameras

NEIGHBOURS = (1, 2, 3, 5, 8, 13)  # frames later
NUM_OTHERS = 8  # per frame, of those that are no neighbours
ALL_PAIRS = 60  # as many frames or fewer: all pairs that overlap
APART = 3  # others of one frame are at least so many frames apart
LEAST_SHARE = 0.2  # of a frame's points that another sees
LARGEST_ANGLE_DEG, LARGEST_ZOOM = 50.0, 2.5  # beyond which SIFT finds little
MOST_SAMPLES, FEWEST_SAMPLES, MOST_PROJECTIONS = 128, 16, 4e8


def view_pairs(source: ExportSource) -> list[tuple[int, int]]:
    """Return pairs of frames (i < j) to be matched, sorted.

    When the scene does not say which frame its points are from, by time alone; all pairs of few frames.
    """
    num = len(source.cameras.frames)
    samples = _samples(source)
    if samples is None and num <= ALL_PAIRS:
        return [(i, j) for i in range(num) for j in range(i + 1, num)]
    pairs = {(i, i + step) for step in NEIGHBOURS for i in range(num - step)}
    if samples is not None:
        for i, share in enumerate(overlaps(source.cameras, samples)):
            pairs.update((min(i, j), max(i, j)) for j in _others(i, share))
    return sorted(pairs)


def overlaps(cameras: SceneCameras, samples: Sequence[np.ndarray]) -> np.ndarray:
    """Return [S, S]: the share of the points [n, 3] that frame i saw, which frame j sees much alike."""
    world_from_cam, intrinsics = cameras.world_from_cam.numpy(), cameras.intrinsics.numpy()
    size = np.array([frame.image_hw[::-1] for frame in cameras.frames], np.float64)
    centres, rotation = world_from_cam[:, :, 3], world_from_cam[:, :, :3]
    cosine = np.cos(np.deg2rad(LARGEST_ANGLE_DEG))
    result = np.zeros((len(samples), len(samples)))
    for i, points in enumerate(samples):
        if not len(points):
            continue
        rays = points - centres[:, None]  # [S, n, 3]
        local = rays @ rotation
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = local[:, :, :2] / local[:, :, 2:] * intrinsics[:, None, [0, 1], [0, 1]]
            pixels += intrinsics[:, None, :2, 2]
            length = np.linalg.norm(rays, axis=-1)
            same_side = (rays * rays[i]).sum(-1) >= cosine * length * length[i]
            zoom = length / length[i]
            sees = (local[:, :, 2] > 0) & ((pixels > 0) & (pixels < size[:, None])).all(-1)
            sees &= same_side & (zoom < LARGEST_ZOOM) & (zoom > 1 / LARGEST_ZOOM)
        result[i] = sees.mean(axis=1)
    return result


def _others(frame: int, share: np.ndarray) -> list[int]:
    """Return frames beyond the neighbours, those that see most first, not all from one moment."""
    if len(share) <= ALL_PAIRS:
        return [j for j in np.flatnonzero(share >= LEAST_SHARE).tolist() if j != frame]
    chosen: list[int] = []
    for j in np.argsort(-share, kind="stable").tolist():
        if share[j] < LEAST_SHARE or len(chosen) == NUM_OTHERS:
            break
        if abs(j - frame) > NEIGHBOURS[-1] and all(abs(j - other) >= APART for other in chosen):
            chosen.append(j)
    return chosen


def _samples(source: ExportSource) -> list[np.ndarray] | None:
    """Return some points [n, 3] of every frame; None when it is not known which frame saw a point."""
    counts = [frame.num_points for frame in source.cameras.frames]
    num = np.array([-1 if count is None else count for count in counts], np.int64)
    if num.min(initial=0) < 0 or num.sum() != source.num_points or source.num_points == 0:
        return None
    most = int(np.clip(MOST_PROJECTIONS / max(len(num), 1) ** 2, FEWEST_SAMPLES, MOST_SAMPLES))
    starts = np.concatenate([[0], np.cumsum(num)])
    wanted = np.concatenate(
        [
            np.linspace(a, b - 1, min(most, b - a)).astype(np.int64)
            for a, b in zip(starts, starts[1:], strict=False)
        ]
        or [np.zeros(0, np.int64)]
    )
    found, first = [], 0
    for block in source.blocks():
        inside = wanted[(wanted >= first) & (wanted < first + len(block))] - first
        found.append(positions_of(block[inside]))
        first += len(block)
    points = np.concatenate([np.zeros((0, 3), np.float32), *found]).astype(np.float64)
    return np.split(points, np.searchsorted(wanted, starts[1:-1]))
