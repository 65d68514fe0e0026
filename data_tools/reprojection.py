"""Do depth and poses of a sequence agree? Points seen in one frame must lie on the surfaces another frame sees.

A pair's error is the median over points of |z' - z| / z, where z' is the depth of a point of frame i moved into
frame j and z the depth frame j holds there; occluded points are the minority. Beside the poses as they are, wrong
readings of the data are tried: translations scaled (a wrong unit of depth or poses) and poses inverted. If one of
them explains the same pairs much better, the data are wrong and the reading says how. Shapes: P points, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.data.depth_codec import read_depth
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.transforms import Cover, half_pixel_intrinsics, intrinsics_matrices
from scal3r_train.geometry.camera import (
    compose_extrinsics,
    invert_extrinsics,
    project,
    transform_points,
    unproject,
)

NUM_STARTS = 8
STEPS = (1, 2, 4, 8, 16)
POINTS_PER_FRAME = 4000
MIN_OVERLAP = 0.15
MIN_PAIRS = 3
EXPLAINED = 0.1
MAX_ERROR = 0.025
BETTER = 0.5
MIN_REPORTED_ERROR = 0.005
SCALES = (1e-3, 1e-2, 0.1, 0.2, 10.0, 100.0, 1e3)
AS_GIVEN = "poses as they are"


@dataclass(frozen=True)
class Reprojection:
    """Verdict on one sequence.

    error: mean over pairs of the median relative depth error, None when nothing could be compared;
    num_pairs: pairs that were used; problem: one line, "" when all is well.
    """

    error: float | None
    num_pairs: int
    problem: str = ""


@dataclass(frozen=True)
class _View:
    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor


def check_reprojection(record: SequenceRecord) -> Reprojection:
    """Compare pairs of frames spread over a sequence, at several distances in time.

    Raises UserError when a depth file cannot be read.
    """
    if record.cam_from_world is None or record.intrinsics is None or not record.depth:
        return Reprojection(None, 0)
    with_depth = [index for index, name in enumerate(record.depth) if name]
    starts = np.unique(np.linspace(0, max(len(with_depth) - 2, 0), NUM_STARTS).astype(int))
    pairs = [(a, a + step) for a in starts for step in STEPS if a + step < len(with_depth)]
    views = {place: _view(record, with_depth[place]) for place in {place for pair in pairs for place in pair}}
    errors = [_pair_errors(views[a], views[b]) for a, b in pairs]
    return _verdict(errors)


def _verdict(pair_errors: list[dict[str, float]]) -> Reprojection:
    """Judge from the errors of all pairs under all readings (NaN: too few points to say)."""
    if not pair_errors:
        return Reprojection(None, 0)
    table = {name: np.array([errors[name] for errors in pair_errors]) for name in pair_errors[0]}
    given = table.pop(AS_GIVEN)
    num = int(np.isfinite(given).sum())
    error = float(np.nanmean(given)) if num >= MIN_PAIRS else None
    diagnosis, found = "", 1.0
    for name, other in table.items():
        both = np.isfinite(other) & (np.isfinite(given) if error is not None else True)
        if both.sum() < MIN_PAIRS:
            continue
        if error is not None and other[both].mean() > BETTER * given[both].mean():
            continue
        if other[both].mean() < min(EXPLAINED, found):
            found = float(other[both].mean())
            diagnosis = f"; they agree ({found:.1%}) with {name}"
    if error is None:
        return Reprojection(
            None, num, f"depth and poses: no frame sees what others saw{diagnosis}" if diagnosis else ""
        )
    if error > MAX_ERROR or (diagnosis and error > MIN_REPORTED_ERROR):
        text = f"depth and poses disagree: relative depth error {error:.1%} over {num} pairs{diagnosis}"
        return Reprojection(error, num, text)
    return Reprojection(error, num)


def _view(record: SequenceRecord, index: int) -> _View:
    """Depth of one frame at its own resolution with the camera to match."""
    depth = read_depth(record.root / record.depth[index], record.depth_codec)
    if record.max_depth > 0:
        depth = np.where(depth <= record.max_depth, depth, np.float32(0))
    height, width = (int(side) for side in record.image_size[index])
    depth_hw = depth.shape[0], depth.shape[1]
    to_depth = Cover((height, width), depth_hw, 0, 0, depth_hw).pixel_map()
    assert record.intrinsics is not None
    assert record.cam_from_world is not None
    intrinsics = intrinsics_matrices(
        half_pixel_intrinsics(record.intrinsics[index : index + 1], record.pixel_centre)
    )
    return _View(
        torch.from_numpy(np.ascontiguousarray(depth)).double(),
        to_depth.processed_intrinsics(intrinsics)[0],
        torch.from_numpy(record.cam_from_world[index]),
    )


def _pair_errors(a: _View, b: _View) -> dict[str, float]:
    """Median relative depth error of a pair under every reading; NaN where too few points can be compared."""
    points = unproject(a.depth, a.intrinsics)[a.depth > 0]
    points = points[:: max(len(points) // POINTS_PER_FRAME, 1)]
    b_from_a = compose_extrinsics(b.extrinsics, invert_extrinsics(a.extrinsics))
    inverted = compose_extrinsics(invert_extrinsics(b.extrinsics), a.extrinsics)
    readings = {AS_GIVEN: b_from_a, "inverted poses (world_from_cam stored as cam_from_world)": inverted}
    for scale in SCALES:
        scaled = torch.cat([b_from_a[:, :3], b_from_a[:, 3:] * scale], -1)
        readings[f"translations times {scale:g} (wrong unit of depth or poses)"] = scaled
    return {name: _error(transform_points(motion, points), b) for name, motion in readings.items()}


def _error(points: Tensor, view: _View) -> float:
    """Median of |z' - z| / z of points [P, 3] in the camera of a view, NaN when less than MIN_OVERLAP meet depth."""
    height, width = view.depth.shape
    front = points[points[:, 2] > 0]
    pixels = torch.floor(project(front, view.intrinsics)).long()
    inside = ((pixels >= 0) & (pixels < torch.tensor([width, height]))).all(-1)
    z = view.depth[pixels[inside, 1], pixels[inside, 0]]
    error = (front[inside, 2] - z).abs()[z > 0] / z[z > 0]
    return float(error.median()) if len(error) > MIN_OVERLAP * len(points) else float("nan")
