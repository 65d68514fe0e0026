"""A closed-form town whose streets all look alike: equal blocks of houses on a grid, and a drive that comes back.

The drive goes up one street, down the next, up and down two more, and then up the first again: four parallel streets,
two of them in the same direction, in which equal houses stand at equal places. World: x right, y down, z forward, in
metres; the ground is y = 0.

Shapes: S frames, H W pixels, B houses, R rays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.inference.loop_closure.truth_chunks import Truth

STREET_SPACING, STREET_LENGTH, BLOCK_LENGTH = 40.0, 160.0, 80.0
STEP, EYE_HEIGHT, CORNER = 2.0, 1.6, 8.0
HEIGHT, WIDTH = 20, 32
MAX_DEPTH = 100.0
HOUSES = 5  # a row; a block has two rows, back to back


def street_grid(step: float = STEP, image_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Truth:
    """Return cameras and depth of the drive, a frame every `step` metres."""
    height, width = image_hw
    cameras = _drive(step)
    focal = 0.6 * width
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack(
        [(x - width / 2) / focal, (y - height / 2) / focal, torch.ones_like(x)], dim=-1
    ).double()
    houses = _houses()
    depth = torch.stack(
        [_cast(camera, rays.reshape(-1, 3), houses).reshape(height, width) for camera in cameras]
    )
    return Truth(cameras, intrinsics, depth)


def _drive(step: float) -> Tensor:
    """world_from_cam [S, 3, 4] along the streets, with rounded corners."""
    far, wide = STREET_LENGTH, STREET_SPACING
    corners = [(0, 0), (0, far), (wide, far), (wide, 0), (2 * wide, 0), (2 * wide, far), (3 * wide, far)]
    corners += [(3 * wide, 0), (3 * wide, -20), (0, -20), (0, 130)]
    fine, points = 0.25, []
    for (x0, z0), (x1, z1) in zip(corners, corners[1:], strict=False):
        count = int((abs(x1 - x0) + abs(z1 - z0)) / fine)
        share = torch.arange(count, dtype=torch.float64)[:, None] / count
        points.append(torch.tensor([[x0, z0]]) * (1 - share) + torch.tensor([[x1, z1]]) * share)
    path = torch.cat(points)
    half = int(CORNER / fine)
    path = path.unfold(0, 2 * half + 1, 1).mean(dim=-1)[:: int(step / fine)]
    forward = torch.nn.functional.normalize(path.diff(dim=0), dim=1)
    path = path[:-1]
    cameras = torch.zeros(len(path), 3, 4, dtype=torch.float64)
    cameras[:, 0, 0], cameras[:, 2, 0] = forward[:, 1], -forward[:, 0]
    cameras[:, 1, 1] = 1
    cameras[:, 0, 2], cameras[:, 2, 2] = forward[:, 0], forward[:, 1]
    cameras[:, 0, 3], cameras[:, 1, 3], cameras[:, 2, 3] = path[:, 0], -EYE_HEIGHT, path[:, 1]
    return cameras


def _houses() -> tuple[Tensor, Tensor]:
    """Opposite corners [B, 3] of all houses; every block is the same."""
    low, high = [], []
    pitch = (BLOCK_LENGTH - 12) / HOUSES
    for block_x in range(-2, 5):
        for block_z in range(-2, 4):
            x0, z0 = block_x * STREET_SPACING, block_z * BLOCK_LENGTH + 6
            for k in range(HOUSES):
                for row in (0, 1):
                    setback, tall = 5 + 1.5 * ((2 * k + row) % 3), 4 + 1.3 * ((3 * k + 2 * row) % 4)
                    near, far = x0 + setback, x0 + setback + 9
                    if row:
                        near, far = x0 + STREET_SPACING - setback - 9, x0 + STREET_SPACING - setback
                    low.append([near, -tall, z0 + k * pitch + 0.4 * row])
                    high.append([far, 0.0, z0 + (k + 1) * pitch - 3])
    return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)


def _cast(camera: Tensor, rays: Tensor, houses: tuple[Tensor, Tensor]) -> Tensor:
    """z-depth [R] of the nearest house or of the ground; 0 where there is neither within reach."""
    low, high = houses
    centre = camera[:, 3]
    near = (torch.minimum((low - centre).abs(), (high - centre).abs())[:, [0, 2]] < MAX_DEPTH).all(dim=1)
    low, high = low[near], high[near]
    directions = rays @ camera[:, :3].T
    directions = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    entry, leave = torch.zeros(()), torch.full((), torch.inf)
    for axis in range(3):
        one = (low[:, axis] - centre[axis])[:, None] / directions[:, axis]
        two = (high[:, axis] - centre[axis])[:, None] / directions[:, axis]
        entry, leave = (
            torch.maximum(entry, torch.minimum(one, two)),
            torch.minimum(leave, torch.maximum(one, two)),
        )
    hit = torch.where((entry <= leave) & (entry > 0.1), entry, torch.inf).min(dim=0).values
    ground = torch.where(directions[:, 1] > 1e-6, -centre[1] / directions[:, 1], torch.inf)
    depth = torch.minimum(hit, ground)
    return torch.where(depth < MAX_DEPTH, depth, 0.0)
