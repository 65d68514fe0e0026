"""Two windows that see the same wall agree; windows of different places do not."""

import torch

from scal3r_train.inference.loop_closure.common_view import common_view_share
from scal3r_train.inference.prediction import ChunkPrediction


def wall(xs: list[float], depth: float = 4.0) -> ChunkPrediction:
    """Cameras side by side at `xs`, all facing a wall."""
    extrinsics = torch.eye(4, dtype=torch.float64)[:3].repeat(len(xs), 1, 1)
    extrinsics[:, 0, 3] = -torch.tensor(xs, dtype=torch.float64)
    intrinsics = torch.tensor([[30.0, 0, 20], [0, 30, 15], [0, 0, 1]]).double().repeat(len(xs), 1, 1)
    shape = (len(xs), 30, 40)
    return ChunkPrediction(extrinsics, intrinsics, torch.full(shape, depth), torch.ones(shape))


def test_the_same_wall_is_seen_from_both_ends() -> None:
    assert common_view_share(wall([0, 0.1, 0.05, 0.2]), 2) > 0.9


def test_a_wall_elsewhere_is_not() -> None:
    assert common_view_share(wall([0, 0.1, 50, 50.1]), 2) == 0


def test_another_depth_is_not_the_same_surface() -> None:
    near, far = wall([0, 0.1]), wall([0, 0.1], depth=9.0)
    joined = ChunkPrediction(
        *(
            torch.cat([a, b])
            for a, b in zip(list(vars(near).values())[:4], list(vars(far).values())[:4], strict=True)
        )
    )
    assert common_view_share(joined, 2) == 0


def test_half_a_view() -> None:
    width_at_wall = 40 / 30 * 4
    share = common_view_share(wall([0, width_at_wall / 2]), 1)
    assert 0.4 < share < 0.6


def test_masked_pixels_see_nothing() -> None:
    prediction = wall([0, 0.1])
    masked = ChunkPrediction(
        *list(vars(prediction).values())[:4], valid=torch.zeros(2, 30, 40, dtype=torch.bool)
    )
    assert common_view_share(masked, 1) == 0
