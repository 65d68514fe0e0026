"""The true points of a sequence: its depth files seen from its true cameras, one point in each voxel.

Shapes: N points, H W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scal3r_eval.recipe import PointProtocol
from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.frame_io import frame_camera, read_frame_depth
from scal3r_train.data.transforms import intrinsics_matrices
from scal3r_train.geometry.pointmap import world_points_from_depth
from scal3r_train.metrics.voxel_means import VoxelGrid, VoxelMeans


def grid_of(protocol: PointProtocol) -> VoxelGrid:
    """Return the voxels that thin estimate and truth alike."""
    return VoxelGrid(protocol.voxel_m, np.zeros(3))


def truth_cloud(sequence: EvalSequence, protocol: PointProtocol, cache: Path) -> np.ndarray:
    """Return the true points [N, 3] float64 in the world of the true poses.

    Args:
        sequence: with depth.
        protocol: voxel size, which frames and how far.
        cache: .npz file that keeps them; used when it was made from the same.

    Raises:
        UserError: the sequence has no depth or cameras, or a depth file is damaged.
    """
    identity = json.dumps(_identity(sequence, protocol), sort_keys=True)
    known = _cached(cache, identity)
    if known is not None:
        return known
    points = _fused(sequence, protocol)
    with atomic_output(cache) as temporary:
        np.savez(temporary, points=points, identity=np.array(identity))
    return points


def _fused(sequence: EvalSequence, protocol: PointProtocol) -> np.ndarray:
    record, means = sequence.record, VoxelMeans(grid_of(protocol))
    limit = protocol.max_depth_m or np.inf
    for frame in sequence.frame_indices[:: protocol.truth_stride]:
        camera = frame_camera(record, frame)
        depth = read_frame_depth(record, frame)
        if depth is None or camera.extrinsics is None or not np.isfinite(camera.extrinsics).all():
            continue
        if camera.intrinsics is None:
            raise UserError(f"{sequence.name} has depth but no intrinsics; set protocol.points=null")
        means.add(_seen(depth, camera.intrinsics, camera.extrinsics, record.upright_hw(frame), limit))
    if not means.num_points:
        raise UserError(f"{sequence.name} has no true depth in its frames; set protocol.points=null")
    return means.means()


def _seen(
    depth: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray, image_hw: tuple[int, int], limit: float
) -> np.ndarray:
    """Return the world points [N, 3] of a depth map [H, W]; intrinsics fx fy cx cy of the image it belongs to."""
    height, width = depth.shape
    # A depth file may be smaller than its image.
    scale = np.array([width / image_hw[1], height / image_hw[0]] * 2)
    points = world_points_from_depth(
        torch.from_numpy(np.ascontiguousarray(depth)).double(),
        intrinsics_matrices((intrinsics * scale)[None])[0],
        torch.from_numpy(np.ascontiguousarray(extrinsics)).double(),
    ).numpy()
    return np.asarray(points[(depth > 0) & (depth <= limit)])


def _identity(sequence: EvalSequence, protocol: PointProtocol) -> dict[str, Any]:
    record = sequence.record
    return {
        "frames_sha256": sequence.frames_sha256,
        "truth_sha256": sequence.truth_sha256,
        "root": str(record.root),
        "depth": [record.depth_codec, record.depth_scale, record.max_depth],
        "points": [protocol.voxel_m, protocol.truth_stride, protocol.max_depth_m],
    }


def _cached(path: Path, identity: str) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["points"]) if str(arrays["identity"]) == identity else None
    except (OSError, ValueError, KeyError):
        return None
