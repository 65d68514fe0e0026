"""World points from depth: agree with a plain per-pixel reference, and project back onto their pixels."""

import torch

from scal3r_train.geometry.camera import pixel_centres, project, transform_points, world_points_from_depth
from scal3r_train.geometry.pose_encoding import decode_pose


def make_views(*leading: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random depth [*leading, 6, 8], intrinsics and extrinsics."""
    generator = torch.Generator().manual_seed(7)
    encoding = torch.randn(*leading, 9, generator=generator, dtype=torch.float64)
    encoding[..., 7:] = 0.8 + 0.4 * torch.rand(*leading, 2, generator=generator, dtype=torch.float64)
    extrinsics, intrinsics = decode_pose(encoding, (6, 8))
    return 0.5 + torch.rand(*leading, 6, 8, generator=generator, dtype=torch.float64), intrinsics, extrinsics


def test_agrees_with_a_per_pixel_reference() -> None:
    depth, intrinsics, extrinsics = make_views(2)
    points = world_points_from_depth(depth, intrinsics, extrinsics)
    for frame in range(2):
        for row, column in [(0, 0), (5, 7), (2, 6)]:
            ray = torch.linalg.solve(intrinsics[frame], torch.tensor([column + 0.5, row + 0.5, 1]).double())
            rotation, translation = extrinsics[frame, :, :3], extrinsics[frame, :, 3]
            expected = torch.linalg.solve(rotation, depth[frame, row, column] * ray - translation)
            torch.testing.assert_close(points[frame, row, column], expected)


def test_points_project_back_onto_their_pixels() -> None:
    depth, intrinsics, extrinsics = make_views(2, 3)
    points = world_points_from_depth(depth, intrinsics, extrinsics)
    assert points.shape == (2, 3, 6, 8, 3)
    in_camera = transform_points(extrinsics, points.flatten(-3, -2))
    torch.testing.assert_close(in_camera[..., 2].unflatten(-1, (6, 8)), depth)
    pixels = project(in_camera, intrinsics).unflatten(-2, (6, 8))
    torch.testing.assert_close(pixels, pixel_centres(6, 8, torch.float64).expand_as(pixels))


def test_a_pixel_without_depth_lands_on_the_camera_centre() -> None:
    depth, intrinsics, extrinsics = make_views()
    centre = -extrinsics[:, :3].T @ extrinsics[:, 3]
    torch.testing.assert_close(world_points_from_depth(0 * depth, intrinsics, extrinsics)[3, 4], centre)
