"""`scal3r score points`: one point cloud against the true one, as one line of JSON on standard output.

The estimate is aligned (by cameras, by ICP), both clouds are thinned with one grid in the truth's frame, and then
measured. Files are read in blocks, and twice where ICP moves the estimate. Shapes: N points.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scal3r_eval.point_source import CameraRegion, DepthCloud, PointSource, open_points
from scal3r_eval.score_trajectory import match_files
from scal3r_train.config import StrictModel, UserError, validate_mapping
from scal3r_train.data.index.source import names_index
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.icp import IcpMode, IcpSettings, refine_alignment
from scal3r_train.metrics.points import nearest_distances, score_distances
from scal3r_train.metrics.trajectory import MIN_POSES, AlignMode, align_trajectory
from scal3r_train.metrics.voxel_means import VoxelGrid, VoxelMeans, along_curve
from scal3r_train.notes import answer
from scal3r_train.scene.scene import POINTS_NAME
from scal3r_train.shown_progress import ShownWork

VOXELS_PER_THRESHOLD = 10
ICP_REACH = 10  # thresholds
LINE = 1e-6  # ratio of extents below which cameras are on a line


class PointScoring(StrictModel):
    """How clouds are scored. Lengths are in the truth's units."""

    threshold: float = Field(gt=0, description="distance below which a point counts as right [m]")
    voxel: float | None = Field(
        None,
        ge=0,
        description="edge of the voxels both clouds are thinned by; null: a tenth of threshold, 0: none [m]",
    )
    icp: IcpMode | None = Field(
        None, description="refine the alignment by the clouds: se3, or sim3 with scale"
    )
    icp_max_distance: float | None = Field(
        None, gt=0, description="largest distance of points that ICP pairs; null: ten times threshold [m]"
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
    answer(json.dumps(result, allow_nan=False))
    return 0


def score_point_files(estimate: str, ground_truth: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of one cloud: `PointComparison.result`, and of `align` how many poses it is from and their extent.

    Args:
        estimate: PLY or PCD file, or a scene folder, whose points.ply and cameras are taken.
        ground_truth: PLY or PCD file, or INDEX.parquet#sequence_id with depth and poses.
        options: fields of `PointFileScoring`.

    Raises:
        UserError: for files or options that cannot be scored.
    """
    scoring = validate_mapping(PointFileScoring, options, "score points")
    trajectory, true_trajectory = scoring.est_trajectory, scoring.gt_trajectory
    if (Path(estimate) / POINTS_NAME).is_file():
        trajectory = trajectory or estimate
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
    truth = open_points(ground_truth)
    region = truth.region if isinstance(truth, DepthCloud) else None
    true_cloud = thinned(truth, Sim3.identity(), scoring.voxel_size, None, "ground truth")
    compared = compare_point_clouds(open_points(estimate), true_cloud, sim3, scoring, region)
    return compared.result | {"align": align, "num_poses": num_poses, "camera_spread_m": spread}


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


@dataclass(frozen=True, eq=False)
class Thinned:
    """A cloud as it is compared, and where it is from.

    Attributes:
        points: [N, 3] float64.
        num_read: points before thinning.
        grid: that thinned them, None without.
        num_left_out: points that were outside the region.
    """

    points: np.ndarray
    num_read: int
    grid: VoxelGrid | None
    num_left_out: int = 0


@dataclass(frozen=True, eq=False)
class PointComparison:
    """An estimate beside the truth.

    Attributes:
        result: `PointScore`'s fields; `voxel_size_m`; points read and not left out (`num_estimate_points`,
            `num_ground_truth_points`), left by thinning (`num_estimate_voxels`, `num_ground_truth_voxels`), and left
            out of the estimate for being farther than `max_camera_distance_m` (null: no limit) from every true camera
            (`num_estimate_points_left_out`); the whole alignment (`scale`, `truth_from_estimate` as 4 x 4 matrix); what
            ICP did (`icp`, null without).
        estimate: [N, 3] float64, aligned and thinned.
        to_truth: [N] distance from each to the nearest true point.
    """

    result: dict[str, Any]
    estimate: np.ndarray
    to_truth: np.ndarray


def compare_point_clouds(
    estimate: PointSource,
    truth: Thinned,
    truth_from_estimate: Sim3,
    scoring: PointScoring,
    region: CameraRegion | None,
) -> PointComparison:
    """Measure a cloud after a given alignment, and ICP where `scoring` asks for it.

    Args:
        estimate: in its own world.
        truth: none of it outside the region.
        truth_from_estimate: the alignment.
        scoring: threshold, voxels, ICP.
        region: points of the estimate outside are left out, once they are aligned; None: all count.

    Raises:
        UserError: a cloud is empty, or as ICP does.
    """
    cloud = thinned(estimate, truth_from_estimate, scoring.voxel_size, truth.grid, "estimate", region)
    icp = None
    if scoring.icp is not None:
        reach = scoring.icp_max_distance or ICP_REACH * scoring.threshold
        found = refine_alignment(cloud.points, truth.points, IcpSettings(scoring.icp, reach))
        truth_from_estimate = found.sim3 @ truth_from_estimate
        del cloud
        cloud = thinned(estimate, truth_from_estimate, scoring.voxel_size, truth.grid, "estimate", region)
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
    to_truth, to_estimate = nearest_distances(cloud.points, truth.points)
    result = score_distances(to_truth, to_estimate, scoring.threshold).as_dict() | {
        "voxel_size_m": scoring.voxel_size,
        "max_camera_distance_m": None if region is None else region.reach,
        "num_estimate_points": cloud.num_read,
        "num_estimate_points_left_out": cloud.num_left_out,
        "num_ground_truth_points": truth.num_read,
        "num_estimate_voxels": len(cloud.points),
        "num_ground_truth_voxels": len(truth.points),
        "scale": truth_from_estimate.scale.item(),
        "truth_from_estimate": truth_from_estimate.matrix().tolist(),
        "icp": icp,
    }
    return PointComparison(result, cloud.points, to_truth)


def thinned(
    source: PointSource,
    sim3: Sim3,
    size: float,
    grid: VoxelGrid | None,
    name: str,
    region: CameraRegion | None = None,
) -> Thinned:
    """Read, move and thin a cloud; without a grid, one of that size is laid through the first block.

    Points outside the region are left out before they are thinned, so memory does not grow with them. Raises UserError,
    with the cloud's name, when no point is left.
    """
    means, kept, num_left_out = None if grid is None else VoxelMeans(grid), [np.empty((0, 3))], 0
    for block in _moved(source, sim3, name):
        if region is not None:
            is_inside = region.inside(block)
            num_left_out += int((~is_inside).sum())
            block = block[is_inside]
        if not len(block):
            continue
        if size == 0:
            kept.append(block)
            continue
        if means is None:
            grid = VoxelGrid(size, np.floor(np.median(block, axis=0) / size) * size)
            means = VoxelMeans(grid)
        means.add(block)
    points = along_curve(np.concatenate(kept)) if means is None else means.means()
    if num_left_out and not len(points):
        assert region is not None
        raise UserError(f"no point of the {name} lies within max_depth = {region.reach:g} of a true camera")
    if not len(points):
        raise UserError(f"the {name} has no points; check the file")
    return Thinned(points, len(points) if means is None else means.num_points, grid, num_left_out)


def _moved(source: PointSource, sim3: Sim3, name: str) -> Iterator[np.ndarray]:
    num_points = 0
    with ShownWork(f"reading the {name}") as shown:
        for block in source.blocks():
            yield sim3.apply(torch.from_numpy(block)).numpy()
            num_points += len(block)
            shown.reach(num_points)
