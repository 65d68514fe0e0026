"""The true points of a sequence: its depth files seen from its true cameras, one point in each voxel.

They are kept in a file, with the identity of all that they depend on besides the poses. Shapes: N points.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_eval.code_identity import SCORING_SHA256
from scal3r_eval.point_source import CameraRegion, DepthCloud
from scal3r_eval.recipe import PointProtocol
from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.io.numpy_files import read_npz
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.voxel_means import VoxelGrid, VoxelMeans

MAX_POINTS_BYTES = 1 << 40  # of a file that is written here

# Of the whole sequence, in the order that they are hashed in.
FIELDS = (
    "root",
    "depth_codec",
    "depth_scale",
    "max_depth",
    "max_depth_percentile",
    "mask_rule",
    "sky_mask_rule",
    "camera_model",
    "pixel_centre",
    "quarter_turns",
    "packed",
)
ARRAYS = ("intrinsics", "distortion", "cam_from_world", "image_size")  # a row a frame
FILES = ("depth", "mask", "sky_mask")  # a name a frame


def truth_files_sha256(sequence: EvalSequence) -> str:
    """Return one hash of how depth is read, of the cameras, and of names and sizes of depth and mask files.

    Files that are packed or not there have no size. Their contents are not read: a file that was replaced by one of the
    same size is not noticed.
    """
    record, frames = sequence.record, list(sequence.frame_indices)
    digest = hashlib.sha256()
    for name in FIELDS:
        digest.update(f"{name}={vars(record)[name]!s}\n".encode())
    for name in ARRAYS:
        values = vars(record)[name]
        shown = None if values is None else values[frames]
        digest.update(f"{name}={None if shown is None else (shown.shape, str(shown.dtype))}\n".encode())
        digest.update(b"" if shown is None else shown.tobytes())
    for name in FILES:
        names = vars(record)[name]
        for frame in frames if names else ():
            digest.update(f"{name} {names[frame]} {_size(record, names[frame])}\n".encode())
    return digest.hexdigest()


def _size(record: SequenceRecord, name: str) -> int | None:
    """Bytes of a file of its own, None without."""
    path = record.root / name
    return path.stat().st_size if name and record.packed is None and path.is_file() else None


def truth_cloud(sequence: EvalSequence, protocol: PointProtocol, cache: Path) -> np.ndarray:
    """Return the true points [N, 3] float64 in the world of the true poses.

    Args:
        sequence: with depth.
        protocol: voxel size, which frames and how far from the cameras.
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


def truth_grid(protocol: PointProtocol) -> VoxelGrid:
    """Return the grid that thins both clouds, that of whole voxels from the origin of the true poses."""
    return VoxelGrid(protocol.voxel_size, np.zeros(3))


def truth_region(sequence: EvalSequence, protocol: PointProtocol) -> CameraRegion | None:
    """Return where the true points are, if a depth limits them. Raises UserError as `truth_cloud`."""
    return DepthCloud(_with_frames(sequence, protocol)).region


def _fused(sequence: EvalSequence, protocol: PointProtocol) -> np.ndarray:
    means = VoxelMeans(truth_grid(protocol))
    for block in DepthCloud(_with_frames(sequence, protocol)).blocks():
        means.add(block)
    if not means.num_points:
        raise UserError(f"{sequence.name} has no true depth in its frames; set protocol.points=null")
    return means.means()


def _with_frames(sequence: EvalSequence, protocol: PointProtocol) -> SequenceRecord:
    """Return the record of the frames whose depth is used."""
    record, frames = sequence.record, list(sequence.frame_indices[:: protocol.truth_stride])
    limits = [limit for limit in (record.max_depth, protocol.max_depth) if limit]
    return replace(record.of_frames(frames), max_depth=min(limits, default=0.0))


def _identity(sequence: EvalSequence, protocol: PointProtocol) -> dict[str, Any]:
    return {
        "code_sha256": SCORING_SHA256,
        "frames_sha256": sequence.frames_sha256,
        "truth_sha256": sequence.truth_sha256,
        "truth_files_sha256": truth_files_sha256(sequence),
        "points": [protocol.voxel_size, protocol.truth_stride, protocol.max_depth],
    }


def _cached(path: Path, identity: str) -> np.ndarray | None:
    try:
        arrays = read_npz(path, ("points", "identity"), MAX_POINTS_BYTES)
        return arrays["points"] if str(arrays["identity"]) == identity else None
    except (OSError, ValueError, KeyError):
        return None
