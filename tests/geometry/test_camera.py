"""Cameras: transforms as a group, projection against the COLMAP formulas, exact round trips, gradients."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.geometry.camera import (
    compose_extrinsics,
    fov_from_intrinsics,
    intrinsics_from_fov,
    invert_extrinsics,
    pixel_centres,
    project,
    transform_points,
    unproject,
)


def random_extrinsics(*leading: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random rigid transforms [*leading, 3, 4]."""
    generator = torch.Generator().manual_seed(seed)
    quaternion = torch.randn(*leading, 4, generator=generator, dtype=dtype)
    rotation = roma.unitquat_to_rotmat(quaternion / quaternion.norm(dim=-1, keepdim=True))
    return torch.cat([rotation, 3 * torch.randn(*leading, 3, 1, generator=generator, dtype=dtype)], dim=-1)


def as_matrix(extrinsics: torch.Tensor) -> torch.Tensor:
    """The 4 x 4 homogeneous form."""
    bottom = torch.tensor([[0.0, 0, 0, 1]], dtype=extrinsics.dtype).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat([extrinsics, bottom], dim=-2)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_and_composition_are_those_of_matrices(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = random_extrinsics(*leading, seed=1, dtype=dtype), random_extrinsics(*leading, seed=2, dtype=dtype)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    inverse, product = invert_extrinsics(a), compose_extrinsics(a, b)
    assert inverse.dtype == product.dtype == dtype
    assert inverse.shape == product.shape == (*leading, 3, 4)
    torch.testing.assert_close(as_matrix(inverse), torch.linalg.inv(as_matrix(a)), rtol=0, atol=tolerance)
    torch.testing.assert_close(as_matrix(product), as_matrix(a) @ as_matrix(b), rtol=0, atol=tolerance)


def test_composition_broadcasts_one_transform_over_many() -> None:
    one, many = random_extrinsics(seed=3), random_extrinsics(7, seed=4)
    torch.testing.assert_close(compose_extrinsics(many, one)[5], compose_extrinsics(many[5], one))


def test_transform_points_applies_rotation_then_translation() -> None:
    transforms, points = random_extrinsics(4, seed=5), torch.randn(4, 9, 3, dtype=torch.float64)
    expected = torch.einsum("bij,bnj->bni", transforms[..., :3], points) + transforms[:, None, :, 3]
    torch.testing.assert_close(transform_points(transforms, points), expected)


def test_pixel_centres_lie_at_half_integers() -> None:
    centres = pixel_centres(2, 3)
    assert centres.shape == (2, 3, 2)
    assert centres[0, 0].tolist() == [0.5, 0.5]
    assert centres[1, 2].tolist() == [2.5, 1.5]
    assert centres.mean(dim=(0, 1)).tolist() == [1.5, 1.0]  # the image centre is (W/2, H/2)


@settings(max_examples=30, deadline=None)
@given(
    fov_h=st.floats(0.05, 3.0),
    fov_w=st.floats(0.05, 3.0),
    height=st.integers(1, 900),
    width=st.integers(1, 900),
)
def test_fov_round_trip(fov_h: float, fov_w: float, height: int, width: int) -> None:
    fov_hw = torch.tensor([[fov_h, fov_w]], dtype=torch.float64)
    intrinsics = intrinsics_from_fov(fov_hw, (height, width))
    torch.testing.assert_close(fov_from_intrinsics(intrinsics, (height, width)), fov_hw, rtol=1e-12, atol=0)


def test_a_right_angle_sees_the_image_border_at_unit_slope() -> None:
    intrinsics = intrinsics_from_fov(torch.tensor([math.pi / 2, math.pi / 2], dtype=torch.float64), (40, 60))
    border = torch.tensor([[1.0, 0, 1], [0, -1, 1], [0, 0, 5]], dtype=torch.float64)
    expected = torch.tensor([[60.0, 20], [30, 0], [30, 20]], dtype=torch.float64)
    torch.testing.assert_close(project(border, intrinsics), expected)


def test_unproject_is_z_depth_along_the_ray_through_the_pixel_centre() -> None:
    intrinsics = torch.tensor([[20.0, 0, 7.25], [0, 25, 4.5], [0, 0, 1]], dtype=torch.float64)
    depth = 1 + torch.rand(2, 9, 14, dtype=torch.float64)
    points = unproject(depth, intrinsics)
    homogeneous = torch.tensor([3 + 0.5, 6 + 0.5, 1.0], dtype=torch.float64)
    expected = depth[1, 6, 3] * torch.linalg.inv(intrinsics) @ homogeneous
    torch.testing.assert_close(points[1, 6, 3], expected)
    torch.testing.assert_close(points[..., 2], depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_project_undoes_unproject(dtype: torch.dtype) -> None:
    fov_hw = 0.4 + torch.rand(2, 3, 2, dtype=dtype)
    intrinsics = intrinsics_from_fov(fov_hw, (28, 42))
    points = unproject(0.1 + 10 * torch.rand(2, 3, 28, 42, dtype=dtype), intrinsics)
    pixels = project(points.flatten(-3, -2), intrinsics).unflatten(-2, (28, 42))
    assert pixels.dtype == dtype
    atol = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(pixels, pixel_centres(28, 42, dtype).expand_as(pixels), rtol=0, atol=atol)


def test_projection_chain_is_differentiable() -> None:
    depth = (1 + torch.rand(2, 3, dtype=torch.float64)).requires_grad_()
    fov_hw = torch.tensor([0.9, 1.2], dtype=torch.float64, requires_grad=True)
    extrinsics = random_extrinsics(seed=6).requires_grad_()

    def chain(depth: torch.Tensor, fov_hw: torch.Tensor, extrinsics: torch.Tensor) -> torch.Tensor:
        points = unproject(depth, intrinsics_from_fov(fov_hw, (2, 3))).flatten(0, 1)
        moved = transform_points(compose_extrinsics(invert_extrinsics(extrinsics), extrinsics), points)
        return project(moved, intrinsics_from_fov(1.1 * fov_hw, (2, 3)))

    assert torch.autograd.gradcheck(chain, (depth, fov_hw, extrinsics))
