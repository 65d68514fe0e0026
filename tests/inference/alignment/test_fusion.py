"""Fusion of overlap frames: ends without a jump, confidence, disagreement, holes."""

from dataclasses import replace

import pytest
import torch

from scal3r_train.geometry import sim3_tangent
from scal3r_train.inference.alignment.fusion import fuse_frames, overlap_shares
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.settings import FusionSettings

SETTINGS = FusionSettings()


def frames(
    num: int = 3, depth: float = 2.0, confidence: float = 1.0, turn: float = 0.0, shift: float = 0.0
) -> PlacedFrames:
    tangent = torch.zeros(num, 7, dtype=torch.float64)
    tangent[:, 4] = turn
    rotation = sim3_tangent.exp(tangent).rotation
    centre = torch.full((num, 3, 1), shift, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).expand(num, 3, 3)
    return PlacedFrames(
        range(num),
        torch.cat([rotation, centre], dim=2),
        intrinsics,
        torch.full((num, 4, 5), depth),
        torch.full((num, 4, 5), confidence),
    )


def test_the_ends_are_the_chunks_own() -> None:
    a, b = frames(2, 2.0, 1.0, 0.0, 0.0), frames(2, 2.05, 7.0, 0.4, 1.0)
    fused = fuse_frames(a, b, torch.tensor([0.0, 1.0]), SETTINGS)
    for row, own in ((0, a), (1, b)):
        torch.testing.assert_close(fused.world_from_cam[row], own.world_from_cam[row])
        torch.testing.assert_close(fused.depth[row], own.depth[row])
        torch.testing.assert_close(fused.depth_conf[row], own.depth_conf[row])


def test_halfway_between_equals() -> None:
    fused = fuse_frames(frames(1, 2.0), frames(1, 2.04, turn=0.4, shift=1.0), torch.tensor([0.5]), SETTINGS)
    torch.testing.assert_close(fused.world_from_cam[0], frames(1, turn=0.2, shift=0.5).world_from_cam[0])
    assert fused.depth.unique().tolist() == pytest.approx([2.02])


def test_confidence_decides() -> None:
    fused = fuse_frames(
        frames(1, 2.0), frames(1, 2.04, confidence=3.0, shift=1.0), torch.tensor([0.5]), SETTINGS
    )
    assert fused.depth.unique().tolist() == pytest.approx([2.03])
    assert fused.world_from_cam[0, 0, 3].item() == pytest.approx(0.75)


def test_disagreement_takes_a_side() -> None:
    fused = fuse_frames(frames(1, 2.0), frames(1, 4.0, confidence=3.0), torch.tensor([0.5]), SETTINGS)
    assert fused.depth.unique().tolist() == [4.0]
    fused = fuse_frames(frames(1, 2.0), frames(1, 4.0, confidence=3.0), torch.tensor([0.1]), SETTINGS)
    assert fused.depth.unique().tolist() == [2.0]


def test_holes_are_filled_or_stay() -> None:
    a, b = frames(1), frames(1, 2.02)
    a.depth[0, 0, :2], b.depth[0, 0, 1:3] = 0, -1
    fused = fuse_frames(a, b, torch.tensor([0.5]), SETTINGS)
    assert fused.depth[0, 0, :4].tolist() == pytest.approx([2.02, 0, 2.0, 2.01])


def test_shares_leave_equal_steps_to_both_neighbours() -> None:
    shares = torch.cat([torch.zeros(1), overlap_shares(30), torch.ones(1)]).double()
    torch.testing.assert_close(
        shares.diff(), torch.full((31,), 1 / 31, dtype=torch.float64), rtol=0, atol=1e-7
    )


def test_points_of_the_point_head_follow_the_weights_of_depth() -> None:
    def with_head(one: PlacedFrames, value: float) -> PlacedFrames:
        return replace(
            one, head_points=torch.full((1, 4, 5, 3), value), head_conf=torch.full((1, 4, 5), value)
        )

    a, b = frames(1, 2.0), frames(1, 2.04, confidence=3.0)
    b.depth[0, 0, 0], b.depth[0, 0, 1] = 4.0, 0.0
    fused = fuse_frames(with_head(a, 1.0), with_head(b, 2.0), torch.tensor([0.5]), SETTINGS)
    assert fused.points[0, 0, :3, 0].tolist() == pytest.approx([2.0, 1.0, 1.75])
    assert fused.confidence[0, 0, :3].tolist() == pytest.approx([2.0, 1.0, 1.75])
