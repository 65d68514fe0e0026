"""Pose encoding: both round trips, uniqueness, free quaternion norm, scipy as an independent reference."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from scal3r_train.geometry.pose_encoding import decode_pose, encode_pose

IMAGE_HW = (28, 42)


def random_encoding(*leading: int, seed: int = 0) -> torch.Tensor:
    """Canonical encodings [*leading, 9]: unit quaternion, q_w > 0, fields of view in 0.3..1.8 rad."""
    generator = torch.Generator().manual_seed(seed)
    encoding = torch.randn(*leading, 9, generator=generator, dtype=torch.float64)
    quaternion = encoding[..., 3:7]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True) * torch.sign(quaternion[..., 3:])
    fov_hw = 0.3 + 1.5 * torch.rand(*leading, 2, generator=generator, dtype=torch.float64)
    return torch.cat([encoding[..., :3], quaternion, fov_hw], dim=-1)


@pytest.mark.parametrize("leading", [(), (6,), (2, 3, 5)])
def test_encode_undoes_decode(leading: tuple[int, ...]) -> None:
    encoding = random_encoding(*leading)
    extrinsics, intrinsics = decode_pose(encoding, IMAGE_HW)
    assert extrinsics.shape == (*leading, 3, 4)
    assert intrinsics.shape == (*leading, 3, 3)
    torch.testing.assert_close(encode_pose(extrinsics, intrinsics, IMAGE_HW), encoding, rtol=0, atol=1e-12)


def test_decode_undoes_encode_for_centred_cameras() -> None:
    extrinsics, intrinsics = decode_pose(random_encoding(50, seed=1), IMAGE_HW)
    again = decode_pose(encode_pose(extrinsics, intrinsics, IMAGE_HW), IMAGE_HW)
    torch.testing.assert_close(again, (extrinsics, intrinsics), rtol=0, atol=1e-12)


def test_rotation_agrees_with_scipy() -> None:
    encoding = random_encoding(20, seed=2)
    extrinsics, intrinsics = decode_pose(encoding, IMAGE_HW)
    expected = torch.from_numpy(Rotation.from_quat(encoding[:, 3:7].numpy()).as_matrix())
    torch.testing.assert_close(extrinsics[:, :, :3], expected)
    torch.testing.assert_close(extrinsics[:, :, 3], encoding[:, :3])
    torch.testing.assert_close(intrinsics[:, 1, 1], 14 / torch.tan(encoding[:, 7] / 2))
    torch.testing.assert_close(intrinsics[:, 0, 0], 21 / torch.tan(encoding[:, 8] / 2))


@pytest.mark.parametrize("factor", [1e-3, 7.0, -2.0])
def test_quaternion_norm_and_sign_do_not_matter(factor: float) -> None:
    encoding = random_encoding(10, seed=3)
    scaled = encoding.clone()
    scaled[:, 3:7] *= factor
    extrinsics, intrinsics = decode_pose(scaled, IMAGE_HW)
    torch.testing.assert_close(extrinsics, decode_pose(encoding, IMAGE_HW)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(encode_pose(extrinsics, intrinsics, IMAGE_HW), encoding, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 3.14159, torch.pi])
def test_small_and_half_turns_survive(angle: float) -> None:
    for axis in torch.eye(3, dtype=torch.float64):
        rotation = torch.from_numpy(Rotation.from_rotvec(angle * axis.numpy()).as_matrix())
        extrinsics = torch.cat([rotation, torch.ones(3, 1, dtype=torch.float64)], dim=-1)
        encoding = encode_pose(extrinsics, decode_pose(random_encoding(), IMAGE_HW)[1], IMAGE_HW)
        assert encoding[6] >= 0
        torch.testing.assert_close(decode_pose(encoding, IMAGE_HW)[0], extrinsics, rtol=0, atol=1e-12)


def test_both_ways_are_differentiable() -> None:
    encoding = random_encoding(3, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: decode_pose(e, IMAGE_HW), encoding)
    assert torch.autograd.gradcheck(lambda e: encode_pose(*decode_pose(e, IMAGE_HW), IMAGE_HW), encoding)


def test_a_zero_quaternion_is_not_passed_off_as_a_rotation() -> None:
    encoding = random_encoding()
    encoding[3:7] = 0
    assert decode_pose(encoding, IMAGE_HW)[0].isnan().any()
