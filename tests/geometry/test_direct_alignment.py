"""The motion between two views of one textured surface, from pictures that are exact functions of the place."""

from dataclasses import replace

import pytest
import roma
import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics, pixel_centres
from scal3r_train.geometry.direct_alignment import (
    AlignmentProblem,
    align,
    chain_from_reference,
    compare,
    focal_evidence,
)

HW, STRIDE, FOCAL = (60, 90), 3, 60.0
NORMAL = (
    torch.tensor([0.1, -0.35, 1.0], dtype=torch.float64) / 4
)  # the plane n . X = 1, four units ahead and tilted


def motion(turn_deg: tuple[float, float, float], step: tuple[float, float, float]) -> Tensor:
    rotation = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([turn_deg], dtype=torch.float64)))
    return torch.cat([rotation, torch.tensor([step], dtype=torch.float64)[..., None]], dim=-1)


TRUTH = motion((0.6, -1.2, 0.5), (0.03, -0.02, 0.07))
START = torch.eye(3, 4, dtype=torch.float64)[None]


def picture(world_from_cam: Tensor) -> Tensor:
    """Return two maps [1, 2, H, W] of the plane, whose colour is a smooth function of the point."""
    rays = pixel_centres(*HW, torch.float64) - torch.tensor([HW[1] / 2, HW[0] / 2])
    rays = torch.cat([rays / FOCAL, torch.ones(*HW, 1, dtype=torch.float64)], dim=-1)
    origin, directions = world_from_cam[0, :, 3], rays @ world_from_cam[0, :, :3].mT
    distance = (1 - origin @ NORMAL) / (directions @ NORMAL)
    x, y, _ = (origin + distance[..., None] * directions).unbind(-1)
    return torch.stack([(3 * x).sin() + (2.3 * y).cos(), (1.7 * x + 2.9 * y).sin()])[None]


def inverse_depth_of_cells() -> Tensor:
    height, width = HW[0] // STRIDE, HW[1] // STRIDE
    centres = pixel_centres(height, width, torch.float64) * STRIDE - torch.tensor([HW[1] / 2, HW[0] / 2])
    return (torch.cat([centres / FOCAL, torch.ones(height, width, 1)], dim=-1) @ NORMAL)[None]


def problem(truth: Tensor = TRUTH) -> AlignmentProblem:
    """The current camera is the world; the previous one is where prev_from_cur says."""
    current, previous = picture(START), picture(invert_extrinsics(truth))
    middles = current[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    rho = inverse_depth_of_cells()
    return AlignmentProblem(
        middles, previous, rho, torch.ones_like(rho), torch.full((1,), FOCAL, dtype=torch.float64)
    )


def turn_error_deg(found: Tensor, truth: Tensor = TRUTH) -> float:
    return float(torch.rad2deg(roma.rotmat_geodesic_distance(found[..., :3], truth[..., :3])))


def test_finds_the_motion_between_two_pictures():
    found = align(problem(), START, 8)
    assert turn_error_deg(found) < 0.01
    torch.testing.assert_close(found[..., 3], TRUTH[..., 3], rtol=0, atol=1e-3)


def test_each_round_comes_nearer():
    errors = [turn_error_deg(align(problem(), START, rounds)) for rounds in (1, 2, 5)]
    assert errors[0] > 3 * errors[1] > 4 * errors[2]


def test_the_unit_is_that_of_depth():
    """Three times as far away, the same pictures are three times the translation, and the same turn."""
    near = problem()
    far = replace(near, inverse_depth=near.inverse_depth / 1.5)
    found = align(far, START, 8)
    assert turn_error_deg(found) < 0.01
    torch.testing.assert_close(found[..., 3], 1.5 * TRUTH[..., 3], rtol=0, atol=2e-3)


def test_cells_without_trust_do_not_matter():
    whole = problem()
    trust = whole.trust.clone()
    trust[..., :5] = 0
    broken = whole.current.clone()
    broken[..., :5] += 3
    expected = align(replace(whole, trust=trust), START, 3)
    torch.testing.assert_close(align(replace(whole, trust=trust, current=broken), START, 3), expected)


def test_outliers_count_less():
    """Of 600 cells 28 are off by as much as the maps differ at all; the turn is of 1.4 degrees."""
    whole = problem()
    broken = whole.current.clone()
    broken[..., 4:8, 5:12] += 2
    assert turn_error_deg(align(replace(whole, current=broken), START, 8)) < 0.4


def test_a_change_of_exposure_does_not_matter():
    whole = problem()
    brighter = replace(whole, current=whole.current + torch.tensor([0.3, -0.2]).double()[:, None, None])
    torch.testing.assert_close(align(brighter, START, 3), align(whole, START, 3))


def test_without_any_trust_nothing_moves():
    whole = problem()
    found = align(replace(whole, trust=torch.zeros_like(whole.trust)), TRUTH, 3)
    torch.testing.assert_close(found, TRUTH)


def test_what_is_no_number_stays_none_and_does_not_end_the_process():
    whole = problem()
    broken = replace(whole, inverse_depth=torch.full_like(whole.inverse_depth, torch.nan).requires_grad_())
    found = align(broken, START, 2)
    assert found.isnan().any()
    found.sum().backward()


def test_gradient_of_one_round_equals_finite_differences():
    """The Cauchy weights are without gradient by intention: they are equal where all differences are."""
    whole = problem(motion((0.1, -0.1, 0.1), (0.01, 0, 0.01)))
    depth, trust = whole.inverse_depth.clone(), 0.5 + torch.rand_like(whole.trust)
    direction = torch.randn(depth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def value(amount: Tensor) -> Tensor:
        moved = replace(whole, inverse_depth=depth * (1 + amount * direction), trust=trust)
        return (align(moved, TRUTH, 1) * target).sum()

    amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(value(amount), amount)
    step = 1e-5
    expected = (value(torch.tensor(step).double()) - value(torch.tensor(-step).double())) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=0.15, atol=1e-6)


def test_the_gradient_is_that_of_the_limit():
    """By inverse depth, through the last round alone, against a difference of two limits."""
    whole = problem()

    def step_length(scale: Tensor) -> Tensor:
        return align(replace(whole, inverse_depth=whole.inverse_depth * scale), START, 12)[0, :, 3].norm()

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(step_length(scale), scale)
    near, far = (step_length(torch.tensor(value).double()) for value in (0.99, 1.01))
    torch.testing.assert_close(found, (far - near) / 0.02, rtol=0.1, atol=1e-4)


def test_comparison_under_the_truth():
    """Differences vanish but for interpolation and the border; parallax is how places move with log inverse depth."""
    whole = problem()
    rays, maps = whole.rays(), whole.previous_with_gradient()
    seen = compare(whole, rays, maps, TRUTH)
    assert seen.difference.abs().median() < 0.01
    scaled = compare(replace(whole, inverse_depth=whole.inverse_depth * 1.001), rays, maps, TRUTH)
    torch.testing.assert_close((scaled.moved - seen.moved) / 1e-3, seen.parallax, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("reference", [0, 2, 4])
def test_chain_from_reference_undoes_the_steps(reference):
    generator = torch.Generator().manual_seed(1)
    turns = 0.3 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    places = torch.randn(5, 3, 1, generator=generator, dtype=torch.float64)
    cam_from_world = torch.cat([roma.rotvec_to_rotmat(turns), places], dim=-1)
    before = torch.cat([cam_from_world[:1], cam_from_world[:-1]])
    steps = compose_extrinsics(before, invert_extrinsics(cam_from_world))
    steps[0] = torch.nan  # the first frame has none before it
    expected = compose_extrinsics(cam_from_world, invert_extrinsics(cam_from_world[reference]))
    torch.testing.assert_close(chain_from_reference(steps, reference), expected)


def test_trust_learns_from_the_pull_on_the_focal_length():
    """Against finite differences; Cauchy weights and variance are without gradient by intention."""
    whole = problem()
    bent = replace(
        whole, inverse_depth=whole.inverse_depth * (1 + 0.2 * torch.rand_like(whole.inverse_depth))
    )
    found = align(bent, START, 8)
    direction = torch.randn(
        whole.trust.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )

    def value(amount: Tensor) -> Tensor:
        moved = replace(bent, trust=0.5 + 0.1 * amount * direction)
        seen = compare(moved, moved.rays(), moved.previous_with_gradient(), found)
        information, pull = focal_evidence(moved, seen, found)
        return (pull / information).sum()

    amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(amount), amount)
    step = 1e-4
    expected = (value(torch.tensor(step).double()) - value(torch.tensor(-step).double())) / (2 * step)
    torch.testing.assert_close(gradient, expected, rtol=0.2, atol=1e-6)


@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_the_pictures_pull_a_wrong_focal_length_to_the_true_one(factor):
    """What cells move sideways for a step aside, focal / depth, is known; depth and motion follow the focal length."""
    parallax, focal = problem().inverse_depth * FOCAL, factor * FOCAL
    for _ in range(8):
        wrong = replace(problem(), inverse_depth=parallax / focal, focal=torch.full((1,), focal).double())
        found = align(wrong, START, 8)
        seen = compare(wrong, wrong.rays(), wrong.previous_with_gradient(), found)
        information, pull = focal_evidence(wrong, seen, found)
        assert information > 0
        focal *= (pull / information).exp().item()
    assert focal == pytest.approx(FOCAL, rel=0.01)
    assert turn_error_deg(found) < 0.02
