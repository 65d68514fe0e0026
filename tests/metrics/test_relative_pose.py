"""Relative pose errors against closed forms and a slow reference."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scal3r_train.metrics.relative_pose import (
    angle_between_rotations_deg,
    angle_between_vectors_deg,
    choose_pairs,
    pose_auc,
    relative_pose_errors_deg,
)

AXES = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 3)))


def rotation_about(axis: Tensor, degrees: float) -> Tensor:
    vector = axis / axis.norm() * math.radians(degrees)
    return torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix())


def random_extrinsics(num_frames: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(num_frames, random_state=seed).as_matrix()
    return torch.from_numpy(np.concatenate([rotation, rng.normal(size=(num_frames, 3, 1))], axis=-1))


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 0.01, 1.0, 45.0, 90.0, 135.0, 179.99, 179.9999999, 180.0])
def test_angle_of_a_known_rotation(degrees: float) -> None:
    """Also next to 0 and 180 degrees, where acos of the trace has lost half of the digits."""
    for axis in AXES:
        base = rotation_about(axis.flip(0), 77)
        got = angle_between_rotations_deg(base, base @ rotation_about(axis, degrees))
        assert got.item() == pytest.approx(degrees, abs=3e-8 if degrees < 179.99 else 3e-7)


def test_float32_angles_are_accurate_near_zero() -> None:
    turn = rotation_about(AXES[0], 0.01).float()
    assert angle_between_rotations_deg(torch.eye(3), turn).item() == pytest.approx(0.01, rel=1e-3)


def test_angle_of_vectors() -> None:
    first = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    for degrees in (0.0, 1e-6, 30.0, 90.0, 179.999999, 180.0):
        angle = math.radians(degrees)
        second = 5 * torch.tensor([math.cos(angle), 0.0, math.sin(angle)], dtype=torch.float64)
        assert angle_between_vectors_deg(first, second).item() == pytest.approx(degrees, abs=1e-9)


def test_errors_agree_with_a_slow_reference() -> None:
    estimate, truth = random_extrinsics(5, 1), random_extrinsics(5, 2)
    rotation, direction = relative_pose_errors_deg(estimate, truth)
    place = 0
    for i in range(5):
        for j in range(i + 1, 5):
            motions = []
            for poses in (estimate, truth):
                full = np.tile(np.eye(4), (5, 1, 1))
                full[:, :3] = poses.numpy()
                motions.append(full[j] @ np.linalg.inv(full[i]))
            ours, true = motions
            angle = Rotation.from_matrix(ours[:3, :3].T @ true[:3, :3]).magnitude()
            cosine = ours[:3, 3] @ true[:3, 3] / np.linalg.norm(ours[:3, 3]) / np.linalg.norm(true[:3, 3])
            assert rotation[place].item() == pytest.approx(np.degrees(angle), abs=1e-6)
            assert direction[place].item() == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)
            place += 1
    assert place == len(rotation) == len(direction) == 10


def test_the_choice_of_world_and_unit_does_not_matter() -> None:
    truth = random_extrinsics(6, 3)
    rotation = rotation_about(AXES[1], 40)
    moved = truth.clone()
    moved[..., :3] = truth[..., :3] @ rotation  # another world frame
    moved[..., 3] = 2.5 * (truth[..., :3] @ torch.tensor([1.0, 2, 3], dtype=torch.float64) + truth[..., 3])
    errors = torch.stack(relative_pose_errors_deg(moved, truth))
    assert errors.max() < 1e-6


def test_a_known_error_of_one_frame_shows_in_its_pairs() -> None:
    truth = random_extrinsics(4, 4)
    estimate = truth.clone()
    turn = rotation_about(AXES[2], 12)
    estimate[2] = turn @ truth[2]  # camera 2 turned on the spot
    rotation, _ = relative_pose_errors_deg(estimate, truth)
    expected = [0.0, 12.0, 0.0, 12.0, 0.0, 12.0]  # pairs 01 02 03 12 13 23
    torch.testing.assert_close(rotation, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_pairs_without_a_baseline_have_no_direction() -> None:
    truth = random_extrinsics(3, 5)
    truth[1, :, 3] = truth[1, :, :3] @ truth[0, :, :3].mT @ truth[0, :, 3]  # the centre of frame 0
    rotation, direction = relative_pose_errors_deg(random_extrinsics(3, 6), truth)
    assert direction.isnan().tolist() == [True, False, False]
    assert rotation.isfinite().all()


def test_batches_equal_single_scenes() -> None:
    estimate = torch.stack([random_extrinsics(4, seed) for seed in (1, 2)])
    truth = torch.stack([random_extrinsics(4, seed) for seed in (3, 4)])
    rotation, direction = relative_pose_errors_deg(estimate, truth)
    for b in (0, 1):
        single = relative_pose_errors_deg(estimate[b], truth[b])
        torch.testing.assert_close((rotation[b], direction[b]), single)


def test_auc_of_known_errors() -> None:
    """Steps of 1 degree: an error of e degrees counts at every limit above e."""
    rotation = torch.tensor([0.5, 2.5, 1.0, 100.0])
    direction = torch.tensor([0.2, 1.5, 4.5, 0.1])
    # worse of both: 0.5, 2.5, 4.5, 100 -> below limits 1..5: 1, 1, 2, 2, 3 of 4
    assert pose_auc(rotation, direction, 5).item() == pytest.approx((1 + 1 + 2 + 2 + 3) / 4 / 5)
    assert pose_auc(torch.zeros(3), torch.zeros(3), 30).item() == 1
    assert pose_auc(torch.full((3,), 40.0), torch.zeros(3), 30).item() == 0


def test_auc_agrees_with_the_histogram_form() -> None:
    """VGGT's protocol: cumulated shares of 1-degree bins, averaged."""
    errors = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 50
    counts, _ = np.histogram(errors.numpy(), bins=np.arange(31))
    expected = np.mean(np.cumsum(counts) / len(errors))
    assert pose_auc(errors, torch.zeros_like(errors), 30).item() == pytest.approx(expected)


def test_auc_without_direction_counts_by_rotation() -> None:
    rotation, nothing = torch.tensor([0.5, 7.0]), torch.tensor([float("nan")] * 2)
    assert pose_auc(rotation, nothing, 5).item() == pytest.approx(0.5)


def test_an_estimate_that_stands_still_is_a_right_angle_off() -> None:
    """Its direction is unknown; atan2(0, 0) would call it perfect."""
    truth = random_extrinsics(4, 7)
    static = torch.eye(3, 4, dtype=torch.float64).expand(4, 3, 4)
    _, direction = relative_pose_errors_deg(static, truth)
    assert direction.tolist() == [90.0] * 6


def test_few_frames_give_all_pairs() -> None:
    first, second = choose_pairs(20, 190)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == [(i, j) for i in range(20) for j in range(i + 1, 20)]


@pytest.mark.parametrize(
    ("num_frames", "max_pairs"), [(20, 189), (20, 1), (3, 2), (1000, 5000), (4541, 250_000)]
)
def test_drawn_pairs_are_different_pairs(num_frames: int, max_pairs: int) -> None:
    first, second = choose_pairs(num_frames, max_pairs)
    assert len(first) == len(second) == max_pairs
    assert (first >= 0).all() and (first < second).all() and (second < num_frames).all()
    assert len(torch.unique(first * num_frames + second)) == max_pairs
    again = choose_pairs(num_frames, max_pairs)
    assert torch.equal(torch.stack(again), torch.stack([first, second]))
    if max_pairs > 1000:
        assert not torch.equal(torch.stack(choose_pairs(num_frames, max_pairs, seed=1)), torch.stack(again))


def test_drawn_pairs_are_one_of_each_stretch_of_all_pairs() -> None:
    every = [(i, j) for i in range(60) for j in range(i + 1, 60)]
    rank = {pair: place for place, pair in enumerate(every)}
    first, second = choose_pairs(60, 177)  # 1770 pairs: stretches of ten
    ranks = [rank[pair] for pair in zip(first.tolist(), second.tolist(), strict=True)]
    assert [place // 10 for place in ranks] == list(range(177))
    assert len({place % 10 for place in ranks}) == 10


def test_auc_of_drawn_pairs_is_near_that_of_all() -> None:
    truth, noise = random_extrinsics(400, 8), torch.Generator().manual_seed(0)
    estimate = truth.clone()
    for frame in range(400):
        degrees = 20 * torch.rand((), generator=noise).item()
        estimate[frame] = rotation_about(AXES[frame % 7], degrees) @ truth[frame]
    whole = relative_pose_errors_deg(estimate, truth)
    some = relative_pose_errors_deg(estimate, truth, choose_pairs(400, 20_000))
    for limit in (5, 15, 30):
        assert pose_auc(*some, limit).item() == pytest.approx(pose_auc(*whole, limit).item(), abs=0.01)
    assert 0.1 < pose_auc(*whole, 15).item() < 0.9
