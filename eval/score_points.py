"""`scal3r score points`: one point cloud against the true one, as one line of JSON on standard output.

The estimate is aligned (by cameras, by ICP), both clouds are thinned with one grid in the truth's frame, and then
measured. Files are read in blocks, and twice where ICP moves the estimate. Shapes: N points.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from scal3r_eval.point_source import PointSource, open_points
from scal3r_eval.truth_trajectory import match_files
from scal3r_train.config import StrictModel, UserError, validate_mapping
from scal3r_train.data.source import names_index
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.scene import POINTS_NAME, TRAJECTORY_NAME
from scal3r_train.metrics.icp import IcpMode, IcpSettings, refine_alignment
from scal3r_train.metrics.points import score_points
from scal3r_train.metrics.trajectory import MIN_POSES, AlignMode, align_trajectory
from scal3r_train.metrics.voxel_means import VoxelGrid, VoxelMeans, along_curve

VOXELS_PER_THRESHOLD = 10
ICP_REACH = 10  # thresholds
LINE = 1e-6  # ratio of extents below which cameras are on a line


class PointScoring(StrictModel):
    """How clouds are scored. Lengths are in the truth's units."""

    threshold: float = Field(gt=0, description="distance below which a point counts as right")
    voxel: float | None = Field(
        None,
        ge=0,
        description="edge of the voxels both clouds are thinned by; null: a tenth of threshold, 0: none",
    )
    icp: IcpMode | None = Field(
        None, description="refine the alignment by the clouds: se3, or sim3 with scale"
    )
    icp_max_distance: float | None = Field(
        None, gt=0, description="largest distance of points that ICP pairs; null: ten times threshold"
    )

    @property
    def voxel_size(self) -> float:
        """Edge of the voxels, 0 for none."""
        return self.threshold / VOXELS_PER_THRESHOLD if self.voxel is None else self.voxel


class PointFileScoring(PointScoring):
    """How two files are scored: `PointScoring`, and the cameras that align them."""

    align: AlignMode | None = Field(None, description="null: sim3 with trajectories, none without")
    est_trajectory: str | None = None
    gt_trajectory: str | None = None
    max_time_difference: float = Field(0.01, ge=0)


def main(estimate: str, ground_truth: str, options: Mapping[str, Any]) -> int:
    """Score a cloud and print the result; returns 0. Raises UserError as `score_point_files` does."""
    result = score_point_files(estimate, ground_truth, options)
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    return 0


def score_point_files(estimate: str, ground_truth: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of one cloud: `score_point_clouds`, and of `align` how many poses it is from and their extent.

    Args:
        estimate: PLY or PCD file, or a scene folder, whose points.ply and trajectory.tum are taken.
        ground_truth: PLY or PCD file, or INDEX.parquet#sequence_id with depth and poses.
        options: fields of `PointFileScoring`.

    Raises:
        UserError: for files or options that cannot be scored.
    """
    scoring = validate_mapping(PointFileScoring, options, "score points")
    trajectory, true_trajectory = scoring.est_trajectory, scoring.gt_trajectory
    if (Path(estimate) / POINTS_NAME).is_file():
        trajectory = trajectory or str(Path(estimate) / TRAJECTORY_NAME)
        estimate = str(Path(estimate) / POINTS_NAME)
    if names_index(ground_truth):
        true_trajectory = true_trajectory or ground_truth
    is_known = trajectory is not None and true_trajectory is not None
    align = scoring.align or ("sim3" if is_known else "none")
    sim3, num_poses, spread = Sim3.identity(), 0, None
    if align != "none":
        if trajectory is None or true_trajectory is None:
            raise UserError(f"--align {align} needs cameras; give --est-trajectory and --gt-trajectory")
        matched = match_files(Path(trajectory), true_trajectory, scoring.max_time_difference)
        sim3, spread = align_by_cameras(matched.estimate, matched.truth, align)
        num_poses = len(matched.truth)
    result = score_point_clouds(open_points(estimate), open_points(ground_truth), sim3, scoring)
    return result | {"align": align, "num_poses": num_poses, "camera_spread_m": spread}


def align_by_cameras(estimate: Tensor, truth: Tensor, align: AlignMode) -> tuple[Sim3, list[float]]:
    """Fit truth_from_estimate to cameras, world_from_cam [S, 3, 4] of either side, so that points may follow.

    Returns also the rms extent of the true camera centres along their three principal axes, largest first: where the
    second is small, a straight drive, errors of the cameras turn the points about the line.
    Raises UserError for fewer than 3 cameras, for cameras of the estimate at one place, and for a fit that turns when
    the true cameras are on a line.
    """
    if len(truth) < MIN_POSES:
        raise UserError(
            f"{len(truth)} cameras cannot align points; give trajectories that share at least {MIN_POSES}"
        )
    centres = truth[..., 3].double()
    spread = torch.linalg.svdvals(centres - centres.mean(dim=0)) / len(centres) ** 0.5
    if align in ("sim3", "se3") and not spread[1] > LINE * spread[0]:
        raise UserError(
            "the true cameras lie on a line, which leaves open how the points are turned about it; use --align none"
        )
    sim3 = align_trajectory(estimate, truth, align)
    if not sim3.scale > 0:
        raise UserError(
            "all cameras of the estimate are at one place and cannot align its points; use --align none"
        )
    return sim3, spread.tolist()


def score_point_clouds(
    estimate: PointSource, truth: PointSource, truth_from_estimate: Sim3, scoring: PointScoring
) -> dict[str, Any]:
    """Errors of a cloud after a given alignment, and ICP where `scoring` asks for it.

    Returns `PointScore`'s fields, `voxel_size_m`, the numbers of points read (`num_estimate_points`,
    `num_ground_truth_points`) and of those left by thinning (`num_estimate_voxels`, `num_ground_truth_voxels`), the
    whole alignment (`scale`, `truth_from_estimate` as 4 x 4 matrix) and what ICP did (`icp`, null without).
    Raises UserError for empty clouds and as ICP does.
    """
    size = scoring.voxel_size
    true_cloud = _thinned(truth, Sim3.identity(), size, None, "ground truth")
    cloud = _thinned(estimate, truth_from_estimate, size, true_cloud.grid, "estimate")
    icp = None
    if scoring.icp is not None:
        reach = scoring.icp_max_distance or ICP_REACH * scoring.threshold
        found = refine_alignment(cloud.points, true_cloud.points, IcpSettings(scoring.icp, reach))
        truth_from_estimate = found.sim3 @ truth_from_estimate
        del cloud
        cloud = _thinned(estimate, truth_from_estimate, size, true_cloud.grid, "estimate")
        icp = {
            "mode": scoring.icp,
            "max_distance_m": reach,
            "num_rounds": found.num_rounds,
            "converged": found.converged,
            "num_pairs": found.num_pairs,
            "median_before_m": found.median_before,
            "median_after_m": found.median_after,
            "scale": found.sim3.scale.item(),
        }
    return score_points(cloud.points, true_cloud.points, scoring.threshold).as_dict() | {
        "voxel_size_m": size,
        "num_estimate_points": cloud.num_read,
        "num_ground_truth_points": true_cloud.num_read,
        "num_estimate_voxels": len(cloud.points),
        "num_ground_truth_voxels": len(true_cloud.points),
        "scale": truth_from_estimate.scale.item(),
        "truth_from_estimate": truth_from_estimate.matrix().tolist(),
        "icp": icp,
    }


@dataclass(frozen=True, eq=False)
class _Thinned:
    """Points [N, 3] float64 of a cloud, how many were read, and the grid that thinned them (None: size 0)."""

    points: np.ndarray
    num_read: int
    grid: VoxelGrid | None


def _thinned(source: PointSource, sim3: Sim3, size: float, grid: VoxelGrid | None, name: str) -> _Thinned:
    """Read, move and thin a cloud; without a grid, one of that size is laid through the first block."""
    means, kept = None if grid is None else VoxelMeans(grid), [np.empty((0, 3))]
    for block in _moved(source, sim3, name):
        if size == 0:
            kept.append(block)
            continue
        if means is None:
            grid = VoxelGrid(size, np.floor(np.median(block, axis=0) / size) * size)
            means = VoxelMeans(grid)
        means.add(block)
    points = along_curve(np.concatenate(kept)) if means is None else means.means()
    if not len(points):
        raise UserError(f"the {name} has no points; check the file")
    return _Thinned(points, len(points) if means is None else means.num_points, grid)


def _moved(source: PointSource, sim3: Sim3, name: str) -> Iterator[np.ndarray]:
    for block in tqdm(source.blocks(), desc=f"reading the {name}", unit="block", leave=False, disable=None):
        if len(block):
            yield sim3.apply(torch.from_numpy(block)).numpy()
