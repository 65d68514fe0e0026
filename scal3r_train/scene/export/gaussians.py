"""A start for 3D Gaussian splatting: one Gaussian per point, and the data set that trains it, in one folder.

    gaussians.ply            one Gaussian per kept point, in the layout of the authors' code
    transforms.json          nerfstudio's data set, with points.ply
    sparse/0, images/        COLMAP's, as gsplat and the authors' code look for it

A Gaussian starts as in "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al., 2023), whose
layout this is too: a ball whose radius is the root mean square of the distances to the three nearest points, opacity
0.1, and the point's colour from all sides. What a file stores is the logarithm of the radius, the logit of the opacity
and a coefficient of spherical harmonics: colour = 1/2 + C0 f_dc, C0 = 1 / sqrt(4 pi). Shapes: N points.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from scal3r_train.config import UserError
from scal3r_train.scene.export import colmap, nerfstudio
from scal3r_train.scene.export.images import image_names
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import AXES, colours_of, positions_of

GAUSSIANS_NAME = "gaussians.ply"
DEFAULT_MAX_POINTS = 1_000_000  # 248 bytes each; trainers add Gaussians where they are missing
SH_C0 = 1 / math.sqrt(4 * math.pi)  # the harmonic of degree 0
SH_DEGREE = 3  # which the authors' loader expects; all but degree 0 start at 0
NUM_REST = 3 * ((SH_DEGREE + 1) ** 2 - 1)
NUM_NEIGHBOURS = 3
OPACITY = 0.1
SMALLEST_SHARE = 1e-3  # of the median radius, for points at one place
NAMES = (
    *AXES, "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(NUM_REST)),
    "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
)  # fmt: skip
GAUSSIAN = np.dtype([(name, "<f4") for name in NAMES])
TRAINING = """train it with nerfstudio: ns-train splatfacto --data {output}
or with gsplat's example:  python simple_trainer.py default --data_dir {output} --data_factor 1 --result_dir results"""


def write(source: ExportSource, folder: Path) -> str:
    """Write data set and Gaussians into a folder; return its contents in words.

    Raises:
        UserError: the scene has no points, or its images cannot be read, without which nothing can be trained.
    """
    if source.num_points == 0:
        raise UserError(f"scene {source.folder} has no points to start Gaussians from; reconstruct it again")
    options = source.options.model_copy(update={"write_images": True})
    if options.max_points is None:
        options = options.model_copy(update={"max_points": DEFAULT_MAX_POINTS})
        if source.num_points > DEFAULT_MAX_POINTS:
            source.notes.append(
                f"at most {DEFAULT_MAX_POINTS} of {source.num_points} points are kept; --max-points N takes others"
            )
    source = replace(source, options=options)
    nerfstudio.write(source, folder)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    contents = colmap.write_model(source, model, image_names(source))
    blocks = list(source.points(folder))
    positions = np.concatenate([positions_of(block) for block in blocks])
    colours = np.concatenate([colours_of(block) for block in blocks])
    _write(folder / GAUSSIANS_NAME, as_gaussians(positions, colours))
    return f"{contents}, {len(positions)} Gaussians"


def as_gaussians(positions: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return [N] of `GAUSSIAN` for points [N, 3] with RGB colours [N, 3] uint8."""
    gaussians = np.zeros(len(positions), GAUSSIAN)
    for axis, name in enumerate(AXES):
        gaussians[name] = positions[:, axis]
    for channel in range(3):
        gaussians[f"f_dc_{channel}"] = (colours[:, channel] / 255 - 0.5) / SH_C0
    gaussians["opacity"] = math.log(OPACITY / (1 - OPACITY))
    radius = np.log(neighbour_distance(positions))
    for axis in range(3):
        gaussians[f"scale_{axis}"] = radius
    gaussians["rot_0"] = 1  # quaternion wxyz
    return gaussians


def neighbour_distance(positions: np.ndarray) -> np.ndarray:
    """Return the root mean square distance [N] of every point [N, 3] to its three nearest others, in scene units.

    Points that coincide get a thousandth of the median, so that the logarithm exists; 1 when all coincide.
    """
    count = min(NUM_NEIGHBOURS, len(positions) - 1)
    if count == 0:
        return np.ones(len(positions))
    points = positions.astype(np.float64)
    # A point is its own nearest neighbour.
    distance = cKDTree(points).query(points, k=count + 1)[0][:, 1:]
    result = np.sqrt(np.square(distance).mean(axis=1))
    apart = result[result > 0]
    return (
        np.maximum(result, SMALLEST_SHARE * float(np.median(apart))) if len(apart) else np.ones(len(result))
    )


def _write(path: Path, gaussians: np.ndarray) -> None:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    lines += [*(f"property float {name}" for name in NAMES), "end_header"]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
        file.write(gaussians.view(np.uint8).data)
