import math

import numpy as np
import pytest
import torch

from scal3r_train.losses.depth_and_points import RegressionSettings, filtered_term, regression_terms

UNFILTERED = RegressionSettings(outlier_quantile=1.0)


def test_closed_form_of_both_terms():
    residual = torch.full((1, 1, 1, 2, 2), 0.3, dtype=torch.float64)
    confidence = torch.full_like(residual, 2.5)
    mask = torch.ones_like(residual, dtype=torch.bool)
    confident, plain = regression_terms(residual, confidence, mask, UNFILTERED)
    assert confident.total.item() / 4 == pytest.approx(0.3 * 2.5 - 0.2 * math.log(2.5))
    assert plain.total.item() / 4 == pytest.approx(0.3)
    assert confident.count.item() == plain.count.item() == 4


def test_best_confidence_is_alpha_over_residual():
    confidence = torch.full((1, 1, 1, 1, 1), 0.2 / 0.05, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    confident, _ = regression_terms(torch.full_like(confidence, 0.05), confidence, mask, UNFILTERED)
    (slope,) = torch.autograd.grad(confident.total.sum(), confidence)
    assert slope.item() == pytest.approx(0, abs=1e-12)


def test_masked_pixels_have_exactly_no_gradient_even_without_confidence():
    residual = torch.zeros(1, 1, 1, 1, 2, requires_grad=True)
    confidence = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 1, 2).requires_grad_()
    mask = torch.tensor([False, True]).reshape(1, 1, 1, 1, 2)
    confident, plain = regression_terms(residual, confidence, mask, UNFILTERED)
    (confident.total + plain.total).sum().backward()
    assert confidence.grad.flatten().tolist() == pytest.approx([0, -0.1])
    assert residual.grad.flatten().tolist() == pytest.approx([0, 3])


def test_outliers_are_dropped_per_chunk_like_a_loop_over_numpy():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 2, 10, 10, generator=generator, dtype=torch.float64)
    values[1] *= 50
    values[0, 0, 0, 0, :5] = 1e3
    mask = torch.rand(2, 3, 2, 10, 10, generator=generator) > 0.4
    settings = RegressionSettings(outlier_quantile=0.9, outlier_min_elements=50)
    term = filtered_term(values, mask, settings)
    for b in range(2):
        for k in range(3):
            valid = np.minimum(values[b, k].numpy()[mask[b, k].numpy()], 100)
            kept = valid[valid <= np.quantile(valid, 0.9, method="lower")]
            assert term.total[b, k].item() == pytest.approx(kept.sum())
            assert term.count[b, k].item() == len(kept) < len(valid)


def test_small_chunks_are_capped_and_not_filtered():
    values = torch.tensor([1.0, 2.0, 500.0]).reshape(1, 1, 3)
    term = filtered_term(values, torch.ones_like(values, dtype=torch.bool), RegressionSettings())
    assert (term.total.item(), term.count.item()) == (103.0, 3.0)


def test_equal_values_are_all_kept():
    values = torch.zeros(1, 1, 100)
    settings = RegressionSettings(outlier_min_elements=10)
    assert filtered_term(values, torch.ones(1, 1, 100, dtype=torch.bool), settings).count.item() == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_predictions_reach_the_total(bad):
    values = torch.rand(1, 1, 100)
    values[0, 0, 7] = bad
    settings = RegressionSettings(outlier_min_elements=10)
    assert not filtered_term(values, torch.ones(1, 1, 100, dtype=torch.bool), settings).total.isfinite().any()
