"""How well a reconstructed point cloud covers the true one: accuracy, completeness, Chamfer, F1.

Both clouds are in one frame, in the truth's units (metres, as the names say, when it is metric), and thinned alike.
Nearest neighbours are exact (a k-d tree). Sources: Jensen et al. 2014 (DTU: accuracy, completeness), Knapitsch et
al. 2017 (precision, recall, F1), docs/metrics.md. Shapes: N points of the estimate (or queries), M of the truth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial import cKDTree

from scal3r_train.config import UserError

BLOCK_QUERIES = 1 << 20  # bounds what one search returns


class NearestPoints:
    """A k-d tree over points [M, 3] float64, M > 0, which it keeps and does not copy.

    Searches use all processors. They are fastest when queries and points that are near each other in memory are near
    each other in space (`VoxelMeans` orders them so).
    """

    def __init__(self, points: np.ndarray) -> None:
        assert points.dtype == np.float64
        assert len(points)
        self.points = points
        # Cells are halved at their middle instead of at the median, and not shrunk: built in a fraction of the time.
        self._tree = cKDTree(points, leafsize=16, balanced_tree=False, compact_nodes=False)

    def distances(self, queries: np.ndarray) -> np.ndarray:
        """Return the distance [N] from each query [N, 3] to the nearest point."""
        distances = np.empty(len(queries))
        for start in range(0, len(queries), BLOCK_QUERIES):
            part = slice(start, start + BLOCK_QUERIES)
            distances[part], _ = self._tree.query(queries[part], workers=-1)
        return distances

    def are_within(self, queries: np.ndarray, reach: float) -> np.ndarray:
        """Return which queries [N, 3] have a point at most `reach` > 0 away, [N] bool; others are given up early."""
        near = np.empty(len(queries), bool)
        bound = np.nextafter(reach, np.inf)  # the search leaves out what is at the bound
        for start in range(0, len(queries), BLOCK_QUERIES):
            part = slice(start, start + BLOCK_QUERIES)
            distances, _ = self._tree.query(queries[part], distance_upper_bound=bound, workers=-1)
            near[part] = np.isfinite(distances)
        return near

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance [N] from each query [N, 3] to the nearest point, and which point it is, int64 [N]."""
        distances, places = self._tree.query(queries, workers=-1)
        return distances, places.astype(np.int64)


@dataclass(frozen=True)
class PointScore:
    """All errors of one cloud.

    `accuracy_m`, `accuracy_median_m`: mean and median distance from the estimate's points to the nearest true point;
    `completeness_m`, `completeness_median_m`: from the true points to the nearest of the estimate. `chamfer_m`: mean of
    accuracy_m and completeness_m. `precision`, `recall`: share of the estimate's and of the true points whose distance
    is below `threshold_m`; `f1`: their harmonic mean, 0 where both are 0.
    """

    accuracy_m: float
    accuracy_median_m: float
    completeness_m: float
    completeness_median_m: float
    chamfer_m: float
    threshold_m: float
    precision: float
    recall: float
    f1: float

    def as_dict(self) -> dict[str, float]:
        """Field names and values."""
        return asdict(self)


def score_points(estimate: np.ndarray, truth: np.ndarray, threshold: float) -> PointScore:
    """Measure an estimate [N, 3] float64 against the truth [M, 3] float64.

    Raises:
        UserError: either has no points.
    """
    return score_distances(*nearest_distances(estimate, truth), threshold)


def nearest_distances(estimate: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances [N] of the estimate's points to the truth and [M] of the true points to the estimate.

    Args:
        estimate, truth: [N, 3], [M, 3] float64.

    Raises:
        UserError: either has no points.
    """
    for name, points in (("estimate", estimate), ("ground truth", truth)):
        if not len(points):
            raise UserError(f"the {name} has no points; check the file")
    # One tree at a time: it is the largest thing in memory.
    to_truth = NearestPoints(truth).distances(estimate)
    return to_truth, NearestPoints(estimate).distances(truth)


def score_distances(to_truth: np.ndarray, to_estimate: np.ndarray, threshold: float) -> PointScore:
    """Measure by the distances [N] of the estimate's points to the truth and [M] of the true points to the estimate."""
    assert threshold > 0
    accuracy, completeness = float(to_truth.mean()), float(to_estimate.mean())
    precision, recall = float((to_truth < threshold).mean()), float((to_estimate < threshold).mean())
    total = precision + recall
    return PointScore(
        accuracy_m=accuracy,
        accuracy_median_m=float(np.median(to_truth)),
        completeness_m=completeness,
        completeness_median_m=float(np.median(to_estimate)),
        chamfer_m=(accuracy + completeness) / 2,
        threshold_m=threshold,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / total if total > 0 else 0.0,
    )
