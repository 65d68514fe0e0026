"""Point maps: one 3D point for every pixel, [..., H, W, 3], seen from calibrated z-depth.

Conventions as in `camera.py`: OpenCV axes, extrinsics = cam_from_world, pixel centres at half integers.
"""

from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics, transform_points, unproject


def world_points_from_depth(depth: Tensor, intrinsics: Tensor, extrinsics: Tensor) -> Tensor:
    """World points [..., H, W, 3] of z-depth [..., H, W], intrinsics [..., 3, 3], extrinsics [..., 3, 4].

    x_world = R^T (x_cam - t). Pixels without depth (0) land on the camera centre; mask them with `depth > 0`.
    """
    points_cam = unproject(depth, intrinsics)
    height, width = depth.shape[-2:]
    world_from_cam = invert_extrinsics(extrinsics)
    return transform_points(world_from_cam, points_cam.flatten(-3, -2)).unflatten(-2, (height, width))
