"""Pinhole cameras and point maps: extrinsics, intrinsics, projection and unprojection.

Conventions. Camera axes are OpenCV's: x right, y down, z forward. `extrinsics` = cam_from_world, [..., 3, 4],
x_cam = R x_world + t. `intrinsics` [..., 3, 3] are in pixels, without skew; pixel centres lie at half
integers (COLMAP): the centre of the top-left pixel is (0.5, 0.5) and the image spans [0, W] x [0, H]. Depth
is z-depth, not the length of the ray. A point map is one 3D point for every pixel, [..., H, W, 3]. Functions keep
dtype and device, are differentiable, and take any leading dimensions unless they say otherwise.
Shapes: N points, H W pixels.
"""

import numpy as np
import torch
from torch import Tensor


def invert_extrinsics(extrinsics: Tensor) -> Tensor:
    """Invert rigid transforms: a_from_b [..., 3, 4] from b_from_a [..., 3, 4]; R is taken as orthonormal."""
    inverse_rotation = extrinsics[..., :3].transpose(-1, -2)
    return torch.cat([inverse_rotation, -inverse_rotation @ extrinsics[..., 3:]], dim=-1)


def compose_extrinsics(c_from_b: Tensor, b_from_a: Tensor) -> Tensor:
    """Chain two rigid (or affine) transforms [..., 3, 4] into c_from_a; leading dimensions broadcast."""
    rotation = c_from_b[..., :3] @ b_from_a[..., :3]
    translation = c_from_b[..., :3] @ b_from_a[..., 3:] + c_from_b[..., 3:]
    return torch.cat([rotation, translation], dim=-1)


def transform_points(b_from_a: Tensor, points: Tensor) -> Tensor:
    """Apply transforms [..., 3, 4] to point sets [..., N, 3] in frame a; returns [..., N, 3] in frame b."""
    return points @ b_from_a[..., :3].transpose(-1, -2) + b_from_a[..., None, :, 3]


def pixel_centres(
    height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Image coordinates (x, y) of all pixel centres, [H, W, 2]; [0, 0] is (0.5, 0.5)."""
    x = torch.arange(width, dtype=dtype, device=device) + 0.5
    y = torch.arange(height, dtype=dtype, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def intrinsics_matrices(rows: Tensor | np.ndarray) -> Tensor:
    """Rows fx fy cx cy [S, 4] -> matrices [S, 3, 3]; float64 on the CPU, whatever the dtype of the rows."""
    values = torch.as_tensor(rows, dtype=torch.float64)
    matrices = torch.zeros(len(values), 3, 3, dtype=torch.float64)
    matrices[:, 0, 0], matrices[:, 1, 1] = values[:, 0], values[:, 1]
    matrices[:, :2, 2] = values[:, 2:]
    matrices[:, 2, 2] = 1
    return matrices


def intrinsics_from_fov(fov_hw: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Intrinsics [..., 3, 3] of a centred pinhole from its full opening angles.

    `fov_hw` [..., 2] holds the vertical, then the horizontal angle in radians; f_y = (H/2) / tan(fov_h/2),
    f_x likewise from W, principal point (W/2, H/2) (docs/numerics.md#pose-encoding).
    """
    height, width = image_hw
    # Filled where the angles are: a tensor of the two sizes would have to be copied there.
    focal_y, focal_x = (
        torch.full_like(tangent, side / 2) / tangent
        for tangent, side in zip(torch.tan(fov_hw / 2).unbind(-1), image_hw, strict=True)
    )
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    entries = [focal_x, zero, one * (width / 2), zero, focal_y, one * (height / 2), zero, zero, one]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def fov_from_intrinsics(intrinsics: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Opening angles (vertical, horizontal) [..., 2] in radians, as if the principal point were centred."""
    height, width = image_hw
    return torch.stack(
        [fov_from_focal(intrinsics[..., 1, 1], height), fov_from_focal(intrinsics[..., 0, 0], width)], dim=-1
    )


def fov_from_focal(focal: Tensor, side: float = 1.0) -> Tensor:
    """Opening angle [...] in radians across a side of the image, from the focal length [...] in the side's unit."""
    return 2 * torch.atan((side / 2) / focal)


def focal_from_fov(fov: Tensor, side: float = 1.0) -> Tensor:
    """Focal length [...] in the unit of the image's side, from the opening angle [...] across it in radians."""
    return (side / 2) / torch.tan(fov / 2)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points [..., H, W, 3] in the camera's frame from z-depth [..., H, W] at the pixel centres.

    Depth is multiplied through as it is: 0 (invalid) becomes the camera centre and stays the caller's to
    mask.
    """
    height, width = depth.shape[-2:]
    pixels = pixel_centres(height, width, depth.dtype, depth.device)
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, None, :]
    principal_point = intrinsics[..., None, None, :2, 2]
    points_xy = (pixels - principal_point) / focal * depth[..., None]
    return torch.cat([points_xy, depth[..., None]], dim=-1)


def project(points_cam: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels (x, y) [..., N, 2] of camera-frame points [..., N, 3].

    Points with z <= 0 lie behind the camera; their pixels are meaningless (infinite at z = 0) and not checked
    here.
    """
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    return points_cam[..., :2] / points_cam[..., 2:] * focal + intrinsics[..., None, :2, 2]


def world_points_from_depth(depth: Tensor, intrinsics: Tensor, extrinsics: Tensor) -> Tensor:
    """World points [..., H, W, 3] of z-depth [..., H, W], intrinsics [..., 3, 3], extrinsics [..., 3, 4].

    x_world = R^T (x_cam - t). Pixels without depth (0) land on the camera centre; mask them with `depth > 0`.
    """
    points_cam = unproject(depth, intrinsics)
    height, width = depth.shape[-2:]
    world_from_cam = invert_extrinsics(extrinsics)
    return transform_points(world_from_cam, points_cam.flatten(-3, -2)).unflatten(-2, (height, width))
