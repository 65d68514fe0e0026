"""ICP, which refines an alignment by the clouds themselves: iterative closest points, point to point, robust.

After Besl and McKay 1992. Each round pairs points of the estimate with the nearest true points and true points with the
nearest of the estimate, drops pairs that are too far apart, and fits rigid motion or similarity to the rest by
`fit_robust`, in which pairs much farther apart than the median lose their weight. Both directions are used because a
scale that is fitted to the estimate's pairs alone shrinks: points fall onto whatever is near. Shapes: N points of the
estimate, M of the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustFitSettings, fit_robust
from scal3r_train.metrics.points import NearestPoints

IcpMode = Literal["se3", "sim3"]
FIT = RobustFitSettings(max_rounds=10, tolerance=1e-4, settled_width=None)
MIN_PAIRS = 10
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class IcpSettings:
    """How far ICP goes.

    Attributes:
        mode: "se3" keeps the scale.
        max_distance: between the points of a pair, in the truth's units.
        max_rounds: of pairing and fitting.
        max_points: of either cloud that look for a partner, drawn at random from `seed`.
        tolerance: stop when the points of a round move less than this share of max_distance, in rms.
    """

    mode: IcpMode
    max_distance: float
    max_rounds: int = 100
    max_points: int = 100_000
    tolerance: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class IcpResult:
    """What ICP found.

    Attributes:
        sim3: new_from_old, to be applied to the estimate.
        num_rounds: that were made.
        converged: whether the last one moved nothing.
        num_pairs: of the last round, both directions.
        median_before, median_after: median distance of the pairs of the first and the last round.
    """

    sim3: Sim3
    num_rounds: int
    converged: bool
    num_pairs: int
    median_before: float
    median_after: float


def refine_alignment(estimate: np.ndarray, truth: np.ndarray, settings: IcpSettings) -> IcpResult:
    """Fit an estimate [N, 3] float64, roughly aligned already, to the truth [M, 3] float64.

    Raises:
        UserError: too few points are within `max_distance` of the other cloud.
    """
    random = np.random.default_rng(settings.seed)
    estimate_tree, truth_tree = NearestPoints(estimate), NearestPoints(truth)
    ours, true = _drawn(estimate, settings.max_points, random), _drawn(truth, settings.max_points, random)
    sim3, medians = Sim3.identity(), []
    for num_rounds in range(1, settings.max_rounds + 1):
        moved, moved_back = _apply(sim3, ours), _apply(sim3.inverse(), true)
        distances, places = truth_tree.search(moved)
        distances_back, places_back = estimate_tree.search(moved_back)
        distances_back *= sim3.scale.item()
        near, near_back = distances <= settings.max_distance, distances_back <= settings.max_distance
        source = np.concatenate([ours[near], estimate[places_back[near_back]]])
        target = np.concatenate([truth[places[near]], true[near_back]])
        if len(source) < MIN_PAIRS:
            raise UserError(
                f"only {len(source)} points lie within {settings.max_distance:g} of the other cloud; ICP cannot start "
                "there: align by trajectories first, or raise the distance"
            )
        medians.append(float(np.median(np.concatenate([distances[near], distances_back[near_back]]))))
        previous, sim3 = sim3, _fitted(source, target, settings.mode)
        if not SMALLEST_SCALE < sim3.scale.item() < math.inf:
            raise UserError(
                "ICP shrank the estimate to a point; align by trajectories first, or keep the scale (se3)"
            )
        step = float(np.sqrt(np.square(_apply(sim3, source) - _apply(previous, source)).sum(axis=1).mean()))
        if step < settings.tolerance * settings.max_distance:
            return IcpResult(sim3, num_rounds, True, len(source), medians[0], medians[-1])
    return IcpResult(sim3, settings.max_rounds, False, len(source), medians[0], medians[-1])


def _fitted(source: np.ndarray, target: np.ndarray, mode: IcpMode) -> Sim3:
    weights = torch.ones(len(source), dtype=torch.float64)
    scale = 1.0 if mode == "se3" else None
    return fit_robust(torch.from_numpy(source), torch.from_numpy(target), weights, FIT, scale).sim3


def _drawn(points: np.ndarray, max_points: int, random: np.random.Generator) -> np.ndarray:
    """At most so many of the points, in their order, so that neighbours stay neighbours."""
    if len(points) <= max_points:
        return points
    return points[np.sort(random.choice(len(points), max_points, replace=False))]


def _apply(sim3: Sim3, points: np.ndarray) -> np.ndarray:
    return sim3.apply(torch.from_numpy(points)).numpy()
