"""The limits that neighbours set: a weighted quantile, of seams that are alike."""

import pytest
import torch

from scal3r_train.inference.alignment.seam import SeamQuality
from scal3r_train.inference.loop_closure.reach import neighbours_reach, weighted_quantile
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings

SETTINGS = LoopEdgeSettings(end_quantile=0.9, end_margin=1.5)


def seam(residual: float, share: float, frames: int = 30, turn: float = 0.0) -> SeamQuality:
    return SeamQuality(
        "points", True, 1.0, 1000, residual, residual, share, 1.0, num_frames=frames, turn_deg=turn
    )


def test_equal_weights_give_the_plain_quantile() -> None:
    values = torch.arange(1.0, 11.0, dtype=torch.float64)[torch.randperm(10)]
    ones = torch.ones(10, dtype=torch.float64)
    assert [weighted_quantile(values, ones, share) for share in (0.1, 0.5, 0.9, 1.0)] == [1, 5, 9, 10]


def test_values_without_weight_do_not_count() -> None:
    values, weights = torch.tensor([1.0, 2.0, 9.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    assert weighted_quantile(values, weights, 1.0) == 2


def test_one_seam_in_ten_that_failed_sets_no_limit() -> None:
    seams = [seam(0.02, 0.9)] * 18 + [seam(0.8, 0.1)]
    reach = neighbours_reach(seams, seam(0.02, 0.9), SETTINGS)
    assert reach is not None
    assert (round(reach.residual, 9), round(reach.inlier_share, 9)) == (0.03, 0.6)


def test_limits_grow_with_the_noise_of_the_run() -> None:
    quiet = neighbours_reach([seam(0.01, 0.99)] * 5, seam(0, 1), SETTINGS)
    noisy = neighbours_reach([seam(0.10, 0.30)] * 5, seam(0, 1), SETTINGS)
    assert quiet is not None
    assert noisy is not None
    assert noisy.residual == pytest.approx(10 * quiet.residual)
    assert noisy.inlier_share < quiet.inlier_share


def test_seams_that_turn_as_much_count_most() -> None:
    seams = [seam(0.02, 0.9)] * 10 + [seam(0.10, 0.4, turn=80.0)] * 10
    straight, turning = (neighbours_reach(seams, seam(0, 1, turn=turn), SETTINGS) for turn in (0.0, 80.0))
    assert straight is not None
    assert turning is not None
    assert straight.residual < 0.05 < 0.1 < turning.residual


def test_seams_with_as_many_frames_count_most() -> None:
    seams = [seam(0.02, 0.9, frames=60)] * 10 + [seam(0.10, 0.4, frames=5)] * 10
    long, short = (neighbours_reach(seams, seam(0, 1, frames=frames), SETTINGS) for frames in (60, 5))
    assert long is not None
    assert short is not None
    assert long.residual < 0.05 < 0.1 < short.residual


def test_seams_without_points_say_nothing() -> None:
    assert neighbours_reach([SeamQuality("cameras", False, 1.0, 3)], seam(0, 1), SETTINGS) is None
