"""Visual odometry as OpenCV's parts give it: corners followed to the next frame, the essential matrix, the ground.

    python -m scal3r_eval.external.opencv_odometry INDEX OUT [camera_height=1.5] [sequences=[..]]

Each frame's corners (Shi and Tomasi) are followed into the next one and back (Lucas and Kanade); RANSAC finds the
essential matrix, whose four readings cv2.recoverPose tells apart. That has no length: the plane of the road, fitted to
the triangulated points below the camera, is `camera_height` away, which is one (Geiger et al., "StereoScan", 2011,
section III, do so for one camera). Nothing is optimised over more than two frames, and loops are not closed.

It is given the true intrinsics. Shapes: S frames, H W pixels, M corners; cameras OpenCV (x right, y down, z ahead).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from pydantic import Field

from scal3r_eval.external.command import ExternalSettings, known_intrinsics, run_external
from scal3r_train.config import run_command
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.data.sequence import SequenceRecord

MIN_CORNERS = 12  # to fit an essential matrix with some to spare
MIN_GROUND_POINTS = 8
MAX_GROUND_TILT_COS = np.cos(np.radians(20))  # of the road's normal against the camera's y axis
GROUND_BAND = 0.1  # of the plane's distance, within which a point lies on it
PLANES_TRIED = 200
SEED = 0
WINDOW, LEVELS = (11, 11), 4  # of the search: pixels, pyramid


class OdometrySettings(ExternalSettings):
    """Of the odometry; pixels are those of the input's images."""

    camera_height: float = Field(
        1.5,
        gt=0,
        description="of the camera above the road, which gives the path its length [units of the index, metres]",
    )
    num_corners: int = Field(1500, ge=50, description="most corners that are followed from a frame [corners]")
    max_return_error: float = Field(
        0.5, gt=0, description="distance by which a corner followed there and back may miss its place [px]"
    )
    min_flow: float = Field(
        0.1, ge=0, description="median motion of the corners below which the camera stands still [px]"
    )
    ransac_px: float = Field(0.5, gt=0, description="distance of inliers from their epipolar lines [px]")
    smooth_frames: int = Field(
        5, ge=1, description="the speed is the median over so many frames with a visible road [frames]"
    )


def odometry(
    record: SequenceRecord, frames: Sequence[int], settings: OdometrySettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return all places [S] and world_from_cam [S, 3, 4] float64; the world is the first camera.

    Where too few corners are followed the camera goes on as before.

    Raises:
        UserError: an image cannot be read, or a frame has no intrinsics.
    """
    intrinsics = known_intrinsics(record, frames)
    world_from_cam = np.eye(4)
    poses = [world_from_cam[:3]]
    speeds: deque[float] = deque(maxlen=settings.smooth_frames)
    motion = np.eye(4)
    last = _grey(record, frames[0])
    for place in range(1, len(frames)):
        image = _grey(record, frames[place])
        found = _followed(last, image, settings)
        if len(found[0]) and np.median(np.linalg.norm(found[1] - found[0], axis=1)) < settings.min_flow:
            motion = np.eye(4)
        elif len(found[0]) >= MIN_CORNERS:
            step = relative_pose(*found, intrinsics[place - 1], intrinsics[place], settings.ransac_px)
            if step is not None:
                rotation, direction, points = step
                distance = ground_distance(points)
                if distance is not None:
                    speeds.append(settings.camera_height / distance)
                motion = np.eye(4)
                motion[:3, :3] = rotation.T
                motion[:3, 3] = -rotation.T @ direction * (np.median(speeds) if speeds else 1.0)
        world_from_cam = world_from_cam @ motion
        poses.append(world_from_cam[:3])
        last = image
    return np.arange(len(frames)), np.stack(poses)


def relative_pose(
    before: np.ndarray,
    after: np.ndarray,
    intrinsics_before: np.ndarray,
    intrinsics_after: np.ndarray,
    ransac_px: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return rotation [3, 3] and unit translation [3] of after_from_before, and triangulated points [M, 3] before.

    before, after: [M, 2] pixels. None when no essential matrix is found.
    """
    rays = [
        (pixels - row[2:]) / row[:2]
        for pixels, row in ((before, intrinsics_before), (after, intrinsics_after))
    ]
    focal = float(np.sqrt(intrinsics_before[0] * intrinsics_before[1]))
    cv2.setRNGSeed(SEED)  # RANSAC draws
    essential, inliers = cv2.findEssentialMat(
        rays[0], rays[1], np.eye(3), cv2.USAC_MAGSAC, 0.999, ransac_px / focal
    )
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, translation, mask, points = cv2.recoverPose(
        essential, rays[0], rays[1], np.eye(3), distanceThresh=1000.0, mask=inliers.copy()
    )
    valid = mask[:, 0] > 0
    points = (points[:3] / points[3]).T[valid]
    return rotation, translation[:, 0], points[np.isfinite(points).all(axis=1)]


def ground_distance(points: np.ndarray) -> float | None:
    """Return the distance of the road's plane from the camera, in units of the step; None where none is seen.

    points: [M, 3] in the camera before the step. RANSAC over planes through three points below the camera whose normal
    is near the y axis, then their median height along it.
    """
    below = points[(points[:, 1] > 0) & (points[:, 2] > 0)]
    # A road lies below the horizon by more than the jitter of distant points.
    below = below[below[:, 1] > 0.05 * below[:, 2]]
    if len(below) < MIN_GROUND_POINTS:
        return None
    draws = np.random.default_rng(SEED).integers(0, len(below), (PLANES_TRIED, 3))
    a, b, c = (below[draws[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 0
    normals = normals[usable] / lengths[usable, None]
    normals *= np.where(normals[:, 1:2] < 0, -1, 1)
    level = normals[:, 1] > MAX_GROUND_TILT_COS
    normals, offsets = normals[level], (normals * a[usable]).sum(axis=1)[level]
    keep = offsets > 0
    normals, offsets = normals[keep], offsets[keep]
    if not len(normals):
        return None
    heights = below @ normals.T
    counts = (np.abs(heights - offsets) < GROUND_BAND * offsets).sum(axis=0)
    best = int(counts.argmax())
    if counts[best] < MIN_GROUND_POINTS:
        return None
    on_plane = np.abs(heights[:, best] - offsets[best]) < GROUND_BAND * offsets[best]
    return float(np.median(heights[on_plane, best]))


def _followed(
    last: np.ndarray, image: np.ndarray, settings: OdometrySettings
) -> tuple[np.ndarray, np.ndarray]:
    """Corners [M, 2] of one image and where they are in the next one [M, 2]; pixel centres at half integers."""
    corners = cv2.goodFeaturesToTrack(last, settings.num_corners, 0.001, 3, blockSize=3)
    if corners is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    there, there_ok, _ = cv2.calcOpticalFlowPyrLK(
        last, image, corners, np.empty(0, np.float32), winSize=WINDOW, maxLevel=LEVELS
    )
    back, back_ok, _ = cv2.calcOpticalFlowPyrLK(
        image, last, there, np.empty(0, np.float32), winSize=WINDOW, maxLevel=LEVELS
    )
    returned = np.linalg.norm((back - corners)[:, 0], axis=1) < settings.max_return_error
    good = (there_ok[:, 0] > 0) & (back_ok[:, 0] > 0) & returned
    return corners[good, 0].astype(np.float64) + 0.5, there[good, 0].astype(np.float64) + 0.5


def _grey(record: SequenceRecord, index: int) -> np.ndarray:
    return cv2.cvtColor(read_frame_image(record, index), cv2.COLOR_RGB2GRAY)


if __name__ == "__main__":
    sys.exit(run_command(lambda: run_external(sys.argv[1:], "opencv_odometry", OdometrySettings, odometry)))
