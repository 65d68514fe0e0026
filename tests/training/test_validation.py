"""Validation numbers: perfect and known predictions, padding, missing depth, the mean over rows."""

import pytest
import torch

from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.pose_encoding import encode_pose
from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.training.monitoring.chunk_errors import chunk_errors, real_chunks
from scal3r_train.training.validation import ValidationSettings, _mean_over_world

NUM_FRAMES, SIZE = 4, (28, 42)


def batch_of_truth(num_chunks: int) -> SequenceBatch:
    """A camera that drives forward 1 m a frame and turns 5 degrees a frame; depth of a tilted plane."""
    angles = torch.deg2rad(5.0 * torch.arange(NUM_FRAMES))
    extrinsics = torch.zeros(NUM_FRAMES, 3, 4)
    extrinsics[:, 0, 0] = extrinsics[:, 2, 2] = angles.cos()
    extrinsics[:, 0, 2], extrinsics[:, 2, 0] = angles.sin(), -angles.sin()
    extrinsics[:, 1, 1] = 1
    extrinsics[:, 2, 3] = -torch.arange(NUM_FRAMES)
    intrinsics = torch.tensor([[30.0, 0, 21], [0, 30, 14], [0, 0, 1]])
    depth = torch.linspace(2, 9, SIZE[0])[:, None].expand(SIZE)
    lead = (1, num_chunks, NUM_FRAMES)
    return SequenceBatch(
        images=torch.randint(256, (*lead, 3, *SIZE), dtype=torch.uint8),
        depth=depth.expand(*lead, *SIZE).clone(),
        extrinsics=extrinsics.expand(*lead, 3, 4).clone(),
        intrinsics=intrinsics.expand(*lead, 3, 3).clone(),
        chunk_mask=torch.ones(1, num_chunks, dtype=torch.bool),
        sequence_ids=("a",),
    )


def perfect(batch: SequenceBatch) -> Scal3ROutput:
    return Scal3ROutput(
        pose_encoding=encode_pose(batch.extrinsics, batch.intrinsics, SIZE), depth=0.1 * batch.depth
    )


def test_a_perfect_prediction() -> None:
    batch = batch_of_truth(2)
    rows = chunk_errors(perfect(batch), batch, real_chunks(batch))
    assert len(rows) == 2
    for row in rows:
        assert row["val/rotation_deg"].item() < 1e-3
        assert row["val/direction_deg"].item() < 0.05
        assert row["val/auc_5"] == row["val/auc_30"] == 1
        assert row["val/abs_rel"].item() == pytest.approx(0, abs=1e-6)


def test_a_camera_that_is_said_not_to_turn() -> None:
    """Pairs are 1, 2 and 3 frames apart (3, 2 and 1 of them), so rotations are off by 5, 10 and 15 degrees."""
    batch = batch_of_truth(1)
    still = batch.extrinsics.clone()
    still[..., :3] = torch.eye(3)
    output = perfect(batch)
    output.pose_encoding = encode_pose(still, batch.intrinsics, SIZE)
    row = chunk_errors(output, batch, real_chunks(batch))[0]
    assert row["val/rotation_deg"].item() == pytest.approx((3 * 5 + 2 * 10 + 15) / 6, abs=1e-3)
    assert row["val/auc_5"].item() < 0.2 and row["val/auc_30"].item() > 0.5


def test_padding_chunks_are_left_out() -> None:
    batch = batch_of_truth(3)
    batch.chunk_mask[0, 1] = False
    output = perfect(batch)
    output.pose_encoding[0, 1] = float("nan")
    assert len(chunk_errors(output, batch, real_chunks(batch))) == 2


def test_heads_that_are_switched_off_have_no_rows() -> None:
    batch = batch_of_truth(1)
    assert set(chunk_errors(Scal3ROutput(depth=batch.depth), batch, real_chunks(batch))[0]) == {"val/abs_rel"}
    only_poses = Scal3ROutput(pose_encoding=perfect(batch).pose_encoding)
    assert "val/abs_rel" not in chunk_errors(only_poses, batch, real_chunks(batch))[0]


def test_the_mean_leaves_out_what_a_chunk_cannot_say() -> None:
    rows = [
        {"val/rotation_deg": torch.tensor(1.0), "val/abs_rel": torch.tensor(0.5)},
        {"val/rotation_deg": torch.tensor(4.0), "val/abs_rel": torch.tensor(float("nan"))},
    ]
    means = _mean_over_world(rows, torch.device("cpu"))
    assert means == {"val/rotation_deg": pytest.approx(2.5), "val/abs_rel": pytest.approx(0.5)}


def test_a_chunk_without_depth_or_motion_has_no_such_error() -> None:
    batch = batch_of_truth(1)
    batch.depth.zero_()
    batch.extrinsics[..., 3] = 0
    row = chunk_errors(perfect(batch), batch, real_chunks(batch))[0]
    assert row["val/abs_rel"].isnan() and row["val/direction_deg"].isnan()
    assert row["val/auc_5"] == 1


def test_validation_without_sources_is_refused() -> None:
    with pytest.raises(UserError, match="every 5 needs sources"):
        validate_mapping(ValidationSettings, {"every": 5}, "recipe")
