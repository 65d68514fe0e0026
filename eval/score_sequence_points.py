"""The points of one sequence against the true ones, for score_sequence.py, and a picture of where they differ.

Shapes: N points of the estimate, M of the truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from scal3r_eval.recipe import TRUTH_FOLDER, PointProtocol
from scal3r_eval.results import POINT_ERRORS_NAME
from scal3r_eval.score_points import Thinned, compare_point_clouds
from scal3r_eval.sequences import EvalSequence
from scal3r_eval.truth_cloud import truth_cloud, truth_grid, truth_region
from scal3r_train.config import atomic_output
from scal3r_train.data.io.point_file import PointFile
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.drawing import View, splat
from scal3r_train.geometry.sim3 import Sim3

PICTURE_HW, JPEG_QUALITY = (480, 760), 85
MAX_DRAWN = 400_000
BACKGROUND, TRUTH_COLOUR = (16, 20, 27), (60, 66, 78)
EXTENT = (0.01, 0.99)  # quantiles of the truth that the picture holds
ROOF_QUANTILE = 0.5  # of the heights of true points above the cameras, beyond which they hide the rest
NOTES = (
    "voxel_size_m",
    "max_camera_distance_m",
    "num_estimate_points_left_out",
    "num_estimate_voxels",
    "num_ground_truth_voxels",
    "icp",
)
METRICS = ("accuracy_m", "completeness_m", "chamfer_m", "precision", "recall", "f1")


def score_sequence_points(
    cloud: Path,
    truth_from_estimate: Sim3,
    sequence: EvalSequence,
    protocol: PointProtocol,
    output_dir: Path,
    folder: Path,
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return the point measures and how they were come by; leave a picture of the errors in `folder`.

    Args:
        cloud: PLY of the estimate in its own world.
        truth_from_estimate: alignment by the cameras.
        sequence: with true depth.
        protocol: threshold, voxel size and how far from the true cameras.
        output_dir: of the evaluation, which keeps the true points.
        folder: of this method and sequence.

    Raises:
        UserError: a file is damaged, a cloud is empty, or the sequence has no depth.
    """
    truth = truth_cloud(sequence, protocol, output_dir / TRUTH_FOLDER / f"{sequence.folder}.points.npz")
    true_cloud = Thinned(truth, len(truth), truth_grid(protocol))
    region = truth_region(sequence, protocol)
    compared = compare_point_clouds(PointFile(cloud), true_cloud, truth_from_estimate, protocol, region)
    found = compared.result
    with atomic_output(folder / POINT_ERRORS_NAME) as temporary:
        picture = error_picture(sequence, truth, compared.estimate, compared.to_truth / protocol.threshold)
        Image.fromarray(picture).save(temporary, "JPEG", quality=JPEG_QUALITY)
    return {name: found[name] for name in METRICS}, {name: found[name] for name in NOTES}


def error_picture(
    sequence: EvalSequence, truth: np.ndarray, estimate: np.ndarray, relative_error: np.ndarray
) -> np.ndarray:
    """Return the estimate from above [H, W, 3] uint8, coloured by error: blue 0, red 1 and more; truth in grey.

    Args:
        sequence: its true cameras say what above is.
        truth, estimate: [M, 3], [N, 3] in the truth's world.
        relative_error: [N] distance to the truth over the threshold.
    """
    poses = sequence.truth[sequence.has_truth]
    view = View.of(invert_extrinsics(poses).numpy())
    top = float(view.heights(poses[:, :, 3].numpy()).max())
    heights = view.heights(truth)
    above = heights[heights > top]
    roof = top + (float(np.quantile(above - top, ROOF_QUANTILE)) if len(above) else 0.0)
    places = np.concatenate(
        [np.quantile(view.places(truth), EXTENT, axis=0), view.places(poses[:, :, 3].numpy())]
    )
    low, high = places.min(0), places.max(0)
    per_unit = float(min(np.array(PICTURE_HW[::-1]) / np.maximum(1.05 * (high - low), 1e-9)))
    picture = np.full((*PICTURE_HW, 3), BACKGROUND, np.uint8)
    colours = (colormaps["turbo"](0.08 + 0.84 * np.clip(relative_error, 0, 1))[:, :3] * 255).astype(np.uint8)
    for points, shades in (
        (truth, np.tile(np.array(TRUTH_COLOUR, np.uint8), (len(truth), 1))),
        (estimate, colours),
    ):
        low_enough = np.flatnonzero(view.heights(points) <= roof)
        chosen = low_enough[:: max(1, -(-len(low_enough) // MAX_DRAWN))]
        x, y = ((view.places(points[chosen]) - (low + high) / 2) * per_unit).T
        pixels = np.stack([PICTURE_HW[1] / 2 + x, PICTURE_HW[0] / 2 - y], -1)
        distance = 1 + roof - view.heights(points[chosen])
        image, seen = splat(pixels, distance, shades[chosen], np.full(len(chosen), 2.0), PICTURE_HW)
        picture[np.isfinite(seen)] = image[np.isfinite(seen)]
    return picture
