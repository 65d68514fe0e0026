"""Depth error after median scaling: closed forms."""

import numpy as np
import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.metrics.depth import DepthScale, abs_rel_after_median, depth_errors


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


def reference(estimate: np.ndarray, truth: np.ndarray, scale: float) -> list[float]:
    """AbsRel, three deltas and mean square, pixel by pixel."""
    rows = []
    for ours, true in zip((scale * estimate).tolist(), truth.tolist(), strict=True):
        ratio = max(ours / true, true / ours)
        rows.append(
            [abs(ours - true) / true, *(float(ratio < 1.25**k) for k in (1, 2, 3)), (ours - true) ** 2]
        )
    return np.mean(rows, axis=0).tolist()


@pytest.mark.parametrize("scale", ["per_sequence", "per_frame", "none"])
def test_depth_errors_agree_with_a_plain_reference(scale: DepthScale) -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(1, 50, (4, 5, 7))
    estimate = (
        truth * np.exp(0.4 * random.normal(size=truth.shape)) * np.array([0.1, 0.2, 0.4, 0.3])[:, None, None]
    )
    truth[random.random(truth.shape) < 0.2] = 0
    truth[1, 0, 0], truth[3] = -1, 0  # sky, and a frame without depth
    estimate[0, 1, :3] = [0, np.nan, -2]
    valid = (truth > 0) & (estimate > 0)
    frames = [(estimate[f][valid[f]], truth[f][valid[f]]) for f in range(3)]

    def lower_median(values: np.ndarray) -> float:
        return float(np.sort(values)[(len(values) - 1) // 2])

    if scale == "per_frame":
        parts = [reference(ours, true, lower_median(true) / lower_median(ours)) for ours, true in frames]
    else:
        ours, true = estimate[valid], truth[valid]
        parts = [
            reference(ours, true, lower_median(true) / lower_median(ours) if scale == "per_sequence" else 1.0)
        ]
    expected = np.mean(parts, axis=0)
    errors = depth_errors(torch.from_numpy(estimate), torch.from_numpy(truth), scale)
    got = [errors.abs_rel, errors.delta_1, errors.delta_2, errors.delta_3, errors.rmse_m**2]
    assert got == pytest.approx(expected.tolist(), rel=1e-12)
    assert (errors.num_pixels, errors.num_frames) == (int(valid.sum()), 3)
    assert errors.valid_share == pytest.approx(valid.sum() / (truth > 0).sum())
    assert errors.delta_1 < errors.delta_2 or scale == "none"


def test_scales_of_frames_do_not_matter_per_frame_and_do_per_sequence() -> None:
    truth = torch.rand(3, 5, 7) + 1
    estimate = truth * torch.tensor([0.5, 1.0, 3.0])[:, None, None]
    assert depth_errors(estimate, truth, "per_frame").abs_rel == pytest.approx(0, abs=1e-6)
    assert depth_errors(estimate, truth, "per_sequence").abs_rel > 0.3
    assert depth_errors(7 * truth, truth).rmse_m == pytest.approx(0, abs=1e-6)
    assert depth_errors(7 * truth, truth, "none").abs_rel == pytest.approx(6)


def test_depth_that_cannot_be_compared_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no pixel has both"):
        depth_errors(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
