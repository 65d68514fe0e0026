"""Depth error after median scaling: closed forms."""

import pytest
import torch

from scal3r_train.metrics.depth import abs_rel_after_median


def test_any_scale_of_the_truth_is_perfect() -> None:
    truth = torch.rand(3, 5, 7) + 1
    assert abs_rel_after_median(0.01 * truth, truth).item() == pytest.approx(0, abs=1e-6)


def test_known_error() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0])
    estimate = torch.tensor([3.0, 4.0, 4.0])  # medians 4 and 2: scaled 1.5, 2, 2
    assert abs_rel_after_median(estimate, truth).item() == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_invalid_pixels_do_not_count() -> None:
    truth = torch.tensor([[1.0, 2.0, 4.0, 0.0]])
    estimate = torch.tensor([[3.0, 4.0, 4.0, 1000.0]])
    assert abs_rel_after_median(estimate, truth).item() == pytest.approx(1 / 3)


def test_nothing_valid_is_nan() -> None:
    assert abs_rel_after_median(torch.ones(2, 2), torch.zeros(2, 2)).isnan()
