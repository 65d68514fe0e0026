"""Point errors against brute force over all pairs, closed forms, symmetry and invariance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scal3r_train.config import UserError
from scal3r_train.metrics import points as nearest
from scal3r_train.metrics.points import NearestPoints, score_points

CLOUDS = {
    "seed": st.integers(0, 2**31),
    "num": st.integers(1, 60),
    "num_true": st.integers(1, 60),
    "threshold": st.floats(0.01, 3),
}


def clouds(seed: int, num: int, num_true: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    estimate, truth = random.normal(size=(num, 3)), random.normal(size=(num_true, 3)) * [1, 1, 0.2]
    shared = min(num, num_true) // 3  # some points that are in both
    estimate[:shared] = truth[:shared]
    return estimate, truth


@settings(max_examples=200, deadline=None, derandomize=True)
@given(**CLOUDS)
def test_scores_agree_with_brute_force(seed: int, num: int, num_true: int, threshold: float) -> None:
    estimate, truth = clouds(seed, num, num_true)
    distances = np.sqrt(np.square(estimate[:, None] - truth[None]).sum(-1))
    to_truth, to_estimate = distances.min(axis=1), distances.min(axis=0)
    precision = sum(d < threshold for d in to_truth.tolist()) / num
    recall = sum(d < threshold for d in to_estimate.tolist()) / num_true
    score = score_points(estimate, truth, threshold)
    assert score.accuracy_m == pytest.approx(to_truth.mean(), rel=1e-12)
    assert score.completeness_m == pytest.approx(to_estimate.mean(), rel=1e-12)
    assert score.accuracy_median_m == pytest.approx(np.median(to_truth), rel=1e-12)
    assert score.completeness_median_m == pytest.approx(np.median(to_estimate), rel=1e-12)
    assert score.chamfer_m == pytest.approx((to_truth.mean() + to_estimate.mean()) / 2, rel=1e-12)
    assert (score.precision, score.recall) == (precision, recall)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert score.f1 == pytest.approx(expected)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(**CLOUDS)
def test_swapping_the_clouds_swaps_the_sides(seed: int, num: int, num_true: int, threshold: float) -> None:
    estimate, truth = clouds(seed, num, num_true)
    forth, back = score_points(estimate, truth, threshold), score_points(truth, estimate, threshold)
    assert (forth.accuracy_m, forth.precision) == (back.completeness_m, back.recall)
    assert (forth.accuracy_median_m, forth.recall) == (back.completeness_median_m, back.precision)
    assert (forth.chamfer_m, forth.f1) == (back.chamfer_m, back.f1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(**CLOUDS, scale=st.floats(0.1, 10))
def test_motion_changes_nothing_and_scale_scales(
    seed: int, num: int, num_true: int, threshold: float, scale: float
) -> None:
    estimate, truth = clouds(seed, num, num_true)
    turn = Rotation.random(random_state=seed % 1000).as_matrix()
    moved = score_points(scale * estimate @ turn + 5, scale * truth @ turn + 5, scale * threshold)
    still = score_points(estimate, truth, threshold)
    # a distance of exactly the threshold may fall to either side; random clouds have none
    assert (moved.precision, moved.recall) == (still.precision, still.recall)
    assert moved.chamfer_m == pytest.approx(scale * still.chamfer_m, rel=1e-9, abs=1e-12)


def test_a_known_grid() -> None:
    """The estimate is a plane 0.5 over the truth, which goes on for as far again."""
    x, y = np.meshgrid(np.arange(20.0), np.arange(10.0))
    truth = np.column_stack([x.ravel(), y.ravel(), np.zeros(200)])
    estimate = truth[truth[:, 0] < 10] + [0, 0, 0.5]
    score = score_points(estimate, truth, 0.6)
    far = np.hypot(np.arange(1, 11), 0.5)
    assert score.accuracy_m == pytest.approx(0.5)
    assert score.completeness_m == pytest.approx((10 * 0.5 + far.sum()) / 20)
    assert (score.precision, score.recall) == (1, 0.5)
    assert score.f1 == pytest.approx(2 / 3)
    assert score_points(estimate, truth, 0.5).precision == 0, "a distance of the threshold is not below it"


def test_empty_clouds_are_user_errors() -> None:
    some, none = np.zeros((2, 3)), np.empty((0, 3))
    with pytest.raises(UserError, match="the estimate has no points"):
        score_points(none, some, 1)
    with pytest.raises(UserError, match="the ground truth has no points"):
        score_points(some, none, 1)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    queries, points = random.normal(size=(1000, 3)), random.normal(size=(500, 3))
    tree = NearestPoints(points)
    whole = tree.distances(queries)
    monkeypatch.setattr(nearest, "BLOCK_QUERIES", 37)
    assert np.array_equal(tree.distances(queries), whole)
    distances, places = tree.search(queries)
    assert np.array_equal(distances, whole)
    np.testing.assert_allclose(np.linalg.norm(points[places] - queries, axis=1), whole)


def test_points_that_coincide_do_not_hinder() -> None:
    points = np.repeat([[1.0, 2, 3], [4, 5, 6]], 5000, axis=0)
    assert NearestPoints(points).distances(np.array([[1.0, 2, 4], [4, 5, 8]])).tolist() == [1, 2]
