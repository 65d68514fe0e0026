"""Similarities: group axioms against 4 x 4 matrices, also near the identity; action on points and cameras."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.geometry.camera import invert_extrinsics, transform_points
from scal3r_train.geometry.sim3 import Sim3

SIZES = [0.0, 1e-12, 1e-6, 1.0]  # how far from the identity


def random_sim3(seed: int, size: float = 1.0) -> Sim3:
    """A similarity at most about `size` away from the identity."""
    generator = torch.Generator().manual_seed(seed)
    draw = size * torch.randn(7, generator=generator, dtype=torch.float64)
    return Sim3(draw[0].exp(), roma.rotvec_to_rotmat(draw[1:4]), 5 * draw[4:])


def assert_same(a: Sim3, b: Sim3, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a.matrix(), b.matrix(), rtol=1e-11, atol=atol)


@pytest.mark.parametrize("size", SIZES)
def test_group_axioms(size: float) -> None:
    for seed in range(5):
        a, b, c = (random_sim3(3 * seed + i, size) for i in range(3))
        assert_same((a @ b) @ c, a @ (b @ c))
        assert_same(a @ Sim3.identity(), a)
        assert_same(Sim3.identity() @ a, a)
        assert_same(a @ a.inverse(), Sim3.identity())
        assert_same(a.inverse() @ a, Sim3.identity())
        assert_same((a @ b).inverse(), b.inverse() @ a.inverse())


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10_000), second=st.integers(0, 10_000))
def test_composition_and_inverse_are_those_of_matrices(first: int, second: int) -> None:
    a, b = random_sim3(first), random_sim3(second)
    torch.testing.assert_close((a @ b).matrix(), a.matrix() @ b.matrix())
    torch.testing.assert_close(a.inverse().matrix(), torch.linalg.inv(a.matrix()))


def test_a_long_chain_stays_a_similarity() -> None:
    step, product = random_sim3(1, 0.01), Sim3.identity()
    for _ in range(1000):
        product = product @ step
    gram = product.rotation @ product.rotation.T
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(product.scale, step.scale**1000)


def test_points_of_any_shape_and_type_move_as_by_the_matrix() -> None:
    sim3 = random_sim3(2)
    points = torch.randn(2, 5, 4, 3)  # float32 in, float64 out
    homogeneous = torch.cat([points.double(), torch.ones(2, 5, 4, 1).double()], dim=-1)
    moved = sim3.apply(points)
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved, (homogeneous @ sim3.matrix().T)[..., :3])
    torch.testing.assert_close(sim3.inverse().apply(moved), points.double())


def test_a_moved_camera_sees_the_moved_scene_at_scaled_depth() -> None:
    sim3, rigid = random_sim3(3), random_sim3(4)
    world_from_cam = torch.cat([rigid.rotation, rigid.translation[:, None]], dim=1)
    points = torch.randn(8, 3, dtype=torch.float64)
    before = transform_points(invert_extrinsics(world_from_cam), points)
    moved_camera = sim3.apply_to_world_from_cam(world_from_cam.expand(6, 3, 4))
    assert moved_camera.shape == (6, 3, 4)
    after = transform_points(invert_extrinsics(moved_camera[5]), sim3.apply(points))
    torch.testing.assert_close(after, sim3.scale * before)


def test_scale_zero_has_no_inverse() -> None:
    identity = Sim3.identity()
    with pytest.raises(AssertionError, match="no inverse"):
        Sim3(0 * identity.scale, identity.rotation, identity.translation).inverse()
