"""The motion between two views from flow and inverse depth, against exact projections."""

import pytest
import roma
import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics, transform_points
from scal3r_train.geometry.egomotion import chain_from_reference, solve_egomotion

NUM_PAIRS, NUM_POINTS = 4, 60


def motions(degrees: float, length: float, num: int = NUM_PAIRS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    turn = torch.nn.functional.normalize(
        torch.randn(num, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    rotation = roma.rotvec_to_rotmat(turn * torch.deg2rad(torch.tensor(degrees).double()))
    translation = length * torch.randn(num, 3, 1, generator=generator, dtype=torch.float64)
    return torch.cat([rotation, translation], dim=-1)


def views(prev_from_cur: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rays here, rays there, and inverse depths of random points."""
    generator = torch.Generator().manual_seed(2)
    rays = 1.6 * torch.rand(len(prev_from_cur), NUM_POINTS, 2, generator=generator, dtype=torch.float64) - 0.8
    depth = 2 + 8 * torch.rand(len(prev_from_cur), NUM_POINTS, generator=generator, dtype=torch.float64)
    points = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1) * depth[..., None]
    there = transform_points(prev_from_cur, points)
    return rays, there[..., :2] / there[..., 2:], 1 / depth


@pytest.mark.parametrize(("degrees", "length"), [(0.0, 0.3), (3.0, 0.0), (5.0, 0.3)])
def test_finds_the_motion_of_exact_flow(degrees, length):
    truth = motions(degrees, length)
    found = solve_egomotion(*views(truth), torch.ones(NUM_PAIRS, NUM_POINTS).double(), num_rounds=6)
    torch.testing.assert_close(found[..., :3], truth[..., :3], rtol=0, atol=2e-4)
    torch.testing.assert_close(found[..., 3], truth[..., 3], rtol=0.01, atol=2e-3)


def test_the_unit_is_that_of_depth():
    rays, moved, inverse_depth = views(motions(2.0, 0.3))
    weight = torch.ones_like(inverse_depth)
    near, far = (solve_egomotion(rays, moved, scale * inverse_depth, weight) for scale in (1.0, 0.5))
    torch.testing.assert_close(far[..., :3], near[..., :3], rtol=0, atol=1e-3)
    torch.testing.assert_close(far[..., 3], 2 * near[..., 3], rtol=0.01, atol=2e-3)


def test_points_without_weight_do_not_matter():
    rays, moved, inverse_depth = views(motions(2.0, 0.3))
    weight = torch.ones_like(inverse_depth)
    weight[:, :10] = 0
    broken = moved.clone()
    broken[:, :10] += 5
    expected = solve_egomotion(rays, moved, inverse_depth, weight)
    torch.testing.assert_close(solve_egomotion(rays, broken, inverse_depth, weight), expected)


def test_outliers_count_less_from_round_to_round():
    truth = motions(2.0, 0.3)
    rays, moved, inverse_depth = views(truth)
    moved[:, :4] += 0.3
    errors = []
    for rounds in (1, 6):
        found = solve_egomotion(rays, moved, inverse_depth, torch.ones_like(inverse_depth), rounds)
        errors.append(roma.rotmat_geodesic_distance(found[..., :3], truth[..., :3]).mean())
    assert errors[1] < 0.3 * errors[0]


def test_without_any_weight_nothing_moves():
    rays, moved, inverse_depth = views(motions(2.0, 0.3))
    found = solve_egomotion(rays, moved, inverse_depth, torch.zeros_like(inverse_depth))
    torch.testing.assert_close(found, torch.eye(3, 4).double().expand_as(found))


def test_gradient_equals_finite_differences():
    """One round: the later ones' trust is without gradient by intention."""
    rays, moved, inverse_depth = (x[:1, :8] for x in views(motions(2.0, 0.3)))
    weight = torch.linspace(0.5, 1, 8).double()[None]
    inputs = [x.clone().requires_grad_() for x in (moved, inverse_depth, weight)]
    assert torch.autograd.gradcheck(lambda m, d, w: solve_egomotion(rays, m, d, w, 1), inputs)


@pytest.mark.parametrize("reference", [0, 2, 4])
def test_chain_from_reference_undoes_the_steps(reference):
    cam_from_world = motions(20.0, 1.0, num=5)
    before = torch.cat([cam_from_world[:1], cam_from_world[:-1]])
    steps = compose_extrinsics(before, invert_extrinsics(cam_from_world))
    steps[0] = torch.nan  # the first frame has none before it
    expected = compose_extrinsics(cam_from_world, invert_extrinsics(cam_from_world[reference]))
    torch.testing.assert_close(chain_from_reference(steps, reference), expected)
