import math

import pytest
import torch

from scal3r_train.losses.depth_and_points import gradient_term, normal_term


def full(shape, value=True):
    return torch.full(shape, value)


def grid(height=9, width=11, spacing=0.1):
    """A flat point map facing the camera at z = 1."""
    y, x = torch.meshgrid(torch.arange(height) * spacing, torch.arange(width) * spacing, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).double()[None, None, None]


def loop_gradient(residual, mask, stride):
    """The definition in plain loops over one frame [H, W]."""
    residual, mask = residual[::stride, ::stride], mask[::stride, ::stride]
    total = 0.0
    for i in range(residual.shape[0]):
        for j in range(residual.shape[1]):
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < residual.shape[0] and b < residual.shape[1] and mask[i, j] and mask[a, b]:
                    total += min(abs(residual[a, b].item() - residual[i, j].item()), 100.0)
    return total, int(mask.sum())


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_gradient_term_equals_loops(stride):
    generator = torch.Generator().manual_seed(stride)
    mask = torch.rand(1, 2, 2, 9, 12, generator=generator) > 0.25
    residual = torch.randn(1, 2, 2, 9, 12, generator=generator, dtype=torch.float64) * 60 * mask
    term = gradient_term(residual, mask, stride, 100.0)
    for k in range(2):
        expected = [loop_gradient(residual[0, k, s], mask[0, k, s], stride) for s in range(2)]
        assert term.total[0, k].item() == pytest.approx(sum(total for total, _ in expected))
        assert term.count[0, k].item() == sum(count for _, count in expected)


def test_constant_offset_has_no_gradient_loss_and_a_ramp_has_its_slope():
    mask = full((1, 1, 1, 8, 8))
    assert gradient_term(torch.full((1, 1, 1, 8, 8), 3.0), mask, 1, 100.0).total.item() == 0
    ramp = torch.arange(8.0).expand(1, 1, 1, 8, 8) * 0.5
    term = gradient_term(ramp, mask, 2, 100.0)
    assert (term.total.item(), term.count.item()) == (4 * 3 * 1.0, 16)


def test_a_map_smaller_than_the_stride_is_an_exact_zero_on_the_graph():
    residual = torch.randn(1, 1, 1, 3, 3, requires_grad=True)
    term = gradient_term(residual, full((1, 1, 1, 3, 3)), 8, 100.0)
    term.total.sum().backward()
    assert term.total.item() == 0
    assert residual.grad.abs().max() == 0


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_tilted_plane_costs_one_minus_the_cosine(stride):
    angle, truth = 0.4, grid()
    predicted = truth.clone()
    predicted[..., 2] += math.tan(angle) * truth[..., 0]
    term = normal_term(predicted, truth, full(truth.shape[:-1]), stride)
    height, width = len(range(0, 9, stride)), len(range(0, 11, stride))
    assert term.count.item() == 4 * (height - 1) * (width - 1)  # each cell is a corner of four pixels
    assert (term.total / term.count).item() == pytest.approx(1 - math.cos(angle), rel=1e-6)


def test_normals_ignore_scale_and_shift():
    truth = grid()
    assert normal_term(3 * truth + 1, truth, full(truth.shape[:-1]), 1).total.item() == pytest.approx(
        0, abs=1e-9
    )


def test_a_surface_turned_inside_out_costs_two():
    truth = grid()
    mirrored = truth * torch.tensor([-1.0, 1.0, 1.0]).double()
    term = normal_term(mirrored, truth, full(truth.shape[:-1]), 1)
    assert (term.total / term.count).item() == pytest.approx(2)


def test_normals_use_valid_neighbours_only():
    truth = grid()
    mask = full(truth.shape[:-1])
    mask[..., 4, 5] = False
    predicted = truth.clone()
    predicted[..., 4, 5, :] = torch.nan
    predicted.requires_grad_()
    term = normal_term(predicted, truth, mask, 1)
    # Each of the four cells around the hole loses the hole's own corner and those of its two neighbours.
    assert term.count.item() == 4 * 8 * 10 - 3 * 4
    assert term.total.item() == pytest.approx(0, abs=1e-9)
    term.total.sum().backward()
    assert predicted.grad[..., 4, 5, :].abs().max() == 0


def test_true_surfaces_without_direction_are_left_out():
    predicted = grid()
    assert (
        normal_term(predicted, torch.zeros_like(predicted), full(predicted.shape[:-1]), 1).count.item() == 0
    )


def test_a_prediction_collapsed_to_a_point_has_a_finite_gradient():
    truth = grid().float()
    predicted = torch.ones_like(truth).requires_grad_()
    term = normal_term(predicted, truth, full(truth.shape[:-1]), 1)
    term.total.sum().backward()
    assert (term.total / term.count).item() == 1
    assert predicted.grad.isfinite().all()
