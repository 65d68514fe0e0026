"""The pose encoding: nine numbers by which the camera head states a camera (docs/numerics.md#pose-encoding).

[t_x, t_y, t_z, q_x, q_y, q_z, q_w, fov_h, fov_w]: translation and xyzw quaternion of cam_from_world (OpenCV
axes) and the full vertical and horizontal opening angles in radians (VGGT's type abs_quat_fov). The principal point
is taken as the image centre, so an encoding forgets any other. Leading dimensions are free; dtype and device are
kept; both ways are differentiable. roma is imported on use: it brings torch._dynamo, two seconds that reading a
recipe can do without.
"""

import torch
from torch import Tensor

from scal3r_train.geometry.camera import fov_from_intrinsics, intrinsics_from_fov


def encode_pose(extrinsics: Tensor, intrinsics: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Encode cam_from_world [..., 3, 4] and intrinsics [..., 3, 3] of an H x W image as [..., 9].

    The quaternion has unit norm and q_w >= 0, which makes the encoding unique except at rotations by exactly
    180 degrees (there both signs state the same rotation).
    """
    import roma  # noqa: PLC0415

    quaternion_xyzw = roma.rotmat_to_unitquat(extrinsics[..., :3])
    quaternion_xyzw = torch.where(quaternion_xyzw[..., 3:] < 0, -quaternion_xyzw, quaternion_xyzw)
    fov_hw = fov_from_intrinsics(intrinsics, image_hw)
    return torch.cat([extrinsics[..., 3], quaternion_xyzw, fov_hw], dim=-1)


def decode_pose(pose_encoding: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decode [..., 9] into cam_from_world [..., 3, 4] and intrinsics [..., 3, 3] in pixels of an H x W image.

    The quaternion may have any norm: the head's output is not normalised. A quaternion of norm zero states no
    rotation and decodes to NaN, which the training step's finiteness check reports.
    """
    import roma  # noqa: PLC0415

    translation, quaternion_xyzw, fov_hw = pose_encoding.split([3, 4, 2], dim=-1)
    unit_quaternion_xyzw = quaternion_xyzw / quaternion_xyzw.norm(dim=-1, keepdim=True)
    rotation = roma.unitquat_to_rotmat(unit_quaternion_xyzw)
    extrinsics = torch.cat([rotation, translation[..., None]], dim=-1)
    return extrinsics, intrinsics_from_fov(fov_hw, image_hw)
