"""Trajectory metrics against evo, against a plain reference of KITTI's definition, on known and on degenerate paths."""

import copy
import math
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from evo.core import metrics as evo_metrics
from evo.core.trajectory import PosePath3D
from evo.core.units import Unit
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.relative_pose import RpeStep
from scal3r_train.metrics.trajectory import (
    SEGMENT_LENGTHS_M,
    AlignMode,
    find_segments,
    score_trajectory,
    segment_errors,
)
from tests.geometry.test_sim3 import random_sim3


def drive(
    num_poses: int, step: float, turn: float = 0.02, wobble: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """world_from_cam [S, 3, 4] of a car that goes `step` and turns `turn` radians per pose, with noise."""
    generator = torch.Generator().manual_seed(seed)
    pose, poses = torch.eye(4, dtype=torch.float64), []
    for _ in range(num_poses):
        poses.append(pose[:3])
        angle = turn + wobble * torch.randn((), generator=generator, dtype=torch.float64).item()
        motion = torch.eye(4, dtype=torch.float64)
        motion[0, 0] = motion[2, 2] = math.cos(angle)
        motion[0, 2], motion[2, 0] = math.sin(angle), -math.sin(angle)
        noise = torch.randn(3, generator=generator, dtype=torch.float64)
        motion[:3, 3] = step * (torch.tensor([0, 0, 1.0]) + wobble * noise)
        pose = pose @ motion
    return torch.stack(poses)


def evo_path(world_from_cam: torch.Tensor) -> PosePath3D:
    bottom = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(len(world_from_cam), 1, 4)
    return PosePath3D(poses_se3=list(torch.cat([world_from_cam, bottom], dim=1).numpy()))


def evo_rms(metric: evo_metrics.PE, truth: PosePath3D, estimate: PosePath3D) -> float:
    metric.process_data((truth, estimate))
    return metric.get_statistic(evo_metrics.StatisticsType.rmse)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    num_poses=st.integers(4, 40),
    align=st.sampled_from(get_args(AlignMode)),
    wobble=st.floats(0.01, 0.5),
    delta=st.integers(1, 6),
    unit=st.sampled_from(["frames", "m"]),
)
def test_ate_and_rpe_agree_with_evo(
    seed: int, num_poses: int, align: AlignMode, wobble: float, delta: int, unit: Literal["frames", "m"]
) -> None:
    truth = drive(num_poses, 1.5, wobble=wobble, seed=seed)
    estimate = random_sim3(seed % 1000, 0.3).apply_to_world_from_cam(
        drive(num_poses, 1.4, 0.021, wobble=wobble, seed=seed + 1)
    )
    ours = score_trajectory(estimate, truth, align, RpeStep(delta, unit))
    theirs, true_path = evo_path(estimate), evo_path(truth)
    if align != "none":
        theirs = copy.deepcopy(theirs)
        theirs.align(true_path, correct_scale=align == "sim3", correct_only_scale=align == "scale")
    ape = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    ape.process_data((true_path, theirs))
    expected = {key: float(value) for key, value in ape.get_all_statistics().items()}
    assert ours.ate_rmse_m == pytest.approx(expected["rmse"], rel=1e-9)
    assert ours.ate_mean_m == pytest.approx(expected["mean"], rel=1e-9)
    assert ours.ate_median_m == pytest.approx(expected["median"], rel=1e-9)
    assert ours.ate_max_m == pytest.approx(expected["max"], rel=1e-9)
    assert ours.path_length_m == pytest.approx(true_path.path_length)
    assert ours.ate_percent == pytest.approx(100 * expected["rmse"] / true_path.path_length)
    if not ours.num_rpe_pairs:
        assert ours.rpe_translation_m is None
        assert ours.rpe_rotation_deg is None
        assert num_poses <= delta if unit == "frames" else true_path.path_length < delta * 1.001
        return
    rpe = {
        relation: evo_rms(
            evo_metrics.RPE(
                relation,
                delta,
                Unit.frames if unit == "frames" else Unit.meters,
                all_pairs=unit == "frames",
                pairs_from_reference=True,
            ),
            true_path,
            theirs,
        )
        for relation in (
            evo_metrics.PoseRelation.translation_part,
            evo_metrics.PoseRelation.rotation_angle_deg,
        )
    }
    assert ours.rpe_translation_m == pytest.approx(rpe[evo_metrics.PoseRelation.translation_part], rel=1e-9)
    assert ours.rpe_rotation_deg == pytest.approx(rpe[evo_metrics.PoseRelation.rotation_angle_deg], rel=1e-7)


def test_scale_alone_leaves_axes_and_origin() -> None:
    truth = drive(50, 1.0, wobble=0.05)
    shrunk = truth.clone()
    shrunk[..., 3] *= 0.25
    score = score_trajectory(shrunk, truth, "scale")
    assert score.scale == pytest.approx(4)
    assert score.ate_rmse_m == pytest.approx(0, abs=1e-9)
    shrunk[..., 3] += torch.tensor([0.0, 0.5, 0])  # times 4: 2 m beside the truth, and nothing moves it back
    moved = score_trajectory(shrunk, truth, "scale")
    assert (moved.ate_rmse_m, moved.ate_max_m) == pytest.approx((2, 2))


def test_steps_in_metres_follow_each_other_on_the_true_path() -> None:
    centres = torch.zeros(12, 3, dtype=torch.float64)
    centres[:, 0] = torch.tensor([0, 1, 2, 3, 3, 3, 3.5, 7, 7.5, 8, 8.5, 9])
    first, last = RpeStep(2.0, "m").pairs(centres)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 2), (2, 7), (7, 11)]
    first, last = RpeStep(9, "frames").pairs(centres)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 9), (1, 10), (2, 11)]


@pytest.mark.parametrize(("delta", "unit"), [(0.0, "m"), (-1.0, "frames"), (1.5, "frames"), (math.nan, "m")])
def test_steps_that_are_none_are_refused(delta: float, unit: Literal["frames", "m"]) -> None:
    with pytest.raises(UserError, match="relative pose error"):
        RpeStep(delta, unit)


def test_a_step_longer_than_the_video_gives_no_rpe() -> None:
    truth = drive(10, 1.0)
    for step in (RpeStep(10, "frames"), RpeStep(100, "m")):
        score = score_trajectory(truth, truth, "sim3", step)
        assert (score.rpe_translation_m, score.rpe_rotation_deg, score.num_rpe_pairs) == (None, None, 0)


def test_auc_knows_no_alignment_and_sees_the_error_of_pairs() -> None:
    """Every second camera turned by 12.5 degrees: half of the pairs are right, and the other half are from 13 on."""
    truth = drive(101, 1.0, 0.0)
    estimate = truth.clone()
    turn = torch.deg2rad(torch.tensor(12.5, dtype=torch.float64))
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[0, 0] = rotation[1, 1] = (
        turn.cos()
    )  # about the direction of travel, so that directions stay right
    rotation[0, 1], rotation[1, 0] = -turn.sin(), turn.sin()
    estimate[1::2, :, :3] = estimate[1::2, :, :3] @ rotation
    score = score_trajectory(random_sim3(5).apply_to_world_from_cam(estimate), truth, "none")
    right = (51 * 50 / 2 + 50 * 49 / 2) / (101 * 100 / 2)
    assert score.num_auc_pairs == 5050
    assert (score.auc_3, score.auc_5) == pytest.approx((right, right))
    assert score.auc_15 == pytest.approx(right + (1 - right) * 3 / 15)
    assert score.auc_30 == pytest.approx(right + (1 - right) * 18 / 30)


def test_a_static_estimate_gets_nothing_from_auc() -> None:
    truth = drive(50, 1.0, 0.0)
    static = torch.eye(3, 4, dtype=torch.float64).expand(50, 3, 4)
    assert score_trajectory(static, truth).auc_30 == 0


def kitti_reference(estimate: torch.Tensor, truth: torch.Tensor) -> tuple[float, float, int]:
    """KITTI's errors by loops and 4 x 4 inverses."""
    bottom = np.array([[0, 0, 0, 1.0]])
    est = [np.vstack([pose, bottom]) for pose in estimate.numpy()]
    gt = [np.vstack([pose, bottom]) for pose in truth.numpy()]
    travelled = [0.0]
    for a, b in zip(gt[:-1], gt[1:], strict=True):
        travelled.append(travelled[-1] + float(np.linalg.norm(b[:3, 3] - a[:3, 3])))
    translations, rotations = [], []
    for first in range(0, len(gt), 10):
        for length in range(100, 801, 100):
            last = next((i for i in range(first, len(gt)) if travelled[i] > travelled[first] + length), None)
            if last is None:
                continue
            error = np.linalg.inv(np.linalg.inv(est[first]) @ est[last]) @ (
                np.linalg.inv(gt[first]) @ gt[last]
            )
            cosine = (np.trace(error[:3, :3]) - 1) / 2
            rotations.append(math.acos(max(-1.0, min(1.0, cosine))) / length)
            translations.append(float(np.linalg.norm(error[:3, 3])) / length)
    return 100 * float(np.mean(translations)), 100 * math.degrees(float(np.mean(rotations))), len(rotations)


@pytest.mark.parametrize("seed", range(3))
def test_segment_errors_agree_with_a_plain_reference(seed: int) -> None:
    truth = drive(400, 2.4, 0.01, wobble=0.05, seed=seed)
    estimate = drive(400, 2.3, 0.0105, wobble=0.05, seed=seed + 9)
    ours = segment_errors(estimate, truth)
    assert ours is not None
    translation, rotation, count = kitti_reference(estimate, truth)
    assert ours.num_segments == count
    assert ours.translation_m_per_100m == pytest.approx(translation, rel=1e-9)
    assert ours.rotation_deg_per_100m == pytest.approx(rotation, rel=1e-6)


def test_segment_errors_of_a_known_drift() -> None:
    """A straight road driven 3 % too short, with a steady turn of 0.5 degrees per 100 m that moves nothing."""
    truth = drive(1000, 1.0, 0.0)
    estimate = truth.clone()
    estimate[:, :, 3] *= 0.97
    angles = torch.deg2rad(torch.arange(1000) * 0.005).double()
    estimate[:, :, :3] = torch.stack([Sim3.identity().rotation] * 1000)
    estimate[:, 0, 0] = estimate[:, 1, 1] = angles.cos()  # about the direction of travel
    estimate[:, 0, 1], estimate[:, 1, 0] = -angles.sin(), angles.sin()
    score = score_trajectory(estimate, truth, "none")
    assert score.rte_m_per_100m == pytest.approx(3.0, rel=0.01)  # segments end one pose late: 101 m, not 100
    assert score.rre_deg_per_100m == pytest.approx(0.5, rel=0.01)
    rescaled = score_trajectory(estimate, truth, "sim3")  # the same alignment goes into all errors
    assert rescaled.rte_m_per_100m == pytest.approx(0, abs=1e-6)
    assert rescaled.scale == pytest.approx(1 / 0.97)


def test_segments_start_every_tenth_pose_and_end_beyond_their_length() -> None:
    centres = torch.zeros(1000, 3, dtype=torch.float64)
    centres[:, 0] = torch.arange(1000)
    first, last, length = find_segments(centres)
    assert set(first.tolist()) == set(range(0, 899, 10))
    assert torch.equal((last - first).double(), length + 1)
    assert sorted(set(length.tolist())) == list(SEGMENT_LENGTHS_M)


@pytest.mark.parametrize(("num_poses", "expected"), [(101, False), (102, True)])
def test_kitti_errors_are_none_on_short_paths(num_poses: int, expected: bool) -> None:
    truth = drive(num_poses, 1.0, 0.0)
    score = score_trajectory(truth, truth)
    assert (score.rte_m_per_100m is not None) == expected
    assert (score.rre_deg_per_100m is not None) == expected


def test_any_similarity_of_the_truth_scores_zero_under_sim3() -> None:
    truth, moved = drive(150, 1.2, wobble=0.05), random_sim3(3)
    score = score_trajectory(moved.inverse().apply_to_world_from_cam(truth), truth)
    assert score.scale == pytest.approx(moved.scale.item())
    errors = (score.ate_rmse_m, score.rte_m_per_100m, score.rpe_translation_m, score.rpe_rotation_deg)
    assert errors == pytest.approx((0, 0, 0, 0), abs=1e-9)
    assert score.rre_deg_per_100m == pytest.approx(0, abs=2e-6)  # the resolution of the kit's arc cosine


def test_a_static_estimate_scores_the_spread_of_the_truth() -> None:
    truth = drive(200, 1.0, wobble=0.05)
    static = torch.eye(3, 4, dtype=torch.float64).expand(200, 3, 4)
    centred = truth[:, :, 3] - truth[:, :, 3].mean(0)
    for offset in (0.0, 1e5):
        pose = static.clone()
        pose[:, :, 3] += offset
        score = score_trajectory(pose, truth)
        assert score.scale == 0
        assert score.ate_rmse_m == pytest.approx(centred.square().sum(-1).mean().sqrt().item())


def test_a_straight_estimate_is_well_defined() -> None:
    truth, straight = drive(200, 1.0, wobble=0.05), drive(200, 0.9, 0.0)
    once = score_trajectory(straight, truth)
    spun = score_trajectory(random_sim3(4).apply_to_world_from_cam(straight), truth)
    assert once.ate_rmse_m == pytest.approx(spun.ate_rmse_m)
    assert once.ate_rmse_m > 1
    assert score_trajectory(straight, straight).ate_rmse_m == pytest.approx(0, abs=1e-9)


def test_a_truth_that_never_moves_is_scored_without_alignment_alone() -> None:
    """Whatever the estimate is, it could be shrunk onto it."""
    truth = torch.eye(3, 4, dtype=torch.float64).expand(10, 3, 4)
    for align in ("sim3", "se3", "scale"):
        with pytest.raises(
            UserError, match="the ground truth never moves, so that aligned errors mean nothing"
        ):
            score_trajectory(drive(10, 1.0), truth, align)
    score = score_trajectory(truth, truth, "none")
    assert score.ate_percent is None
    assert score.ate_rmse_m == 0


def test_too_few_or_broken_poses_are_user_errors() -> None:
    truth = drive(10, 1.0)
    with pytest.raises(UserError, match="2 poses; scoring needs at least 3"):
        score_trajectory(truth[:2], truth[:2])
    broken = truth.clone()
    broken[4, 1, 3] = math.nan
    with pytest.raises(UserError, match="pose 4 of the estimate is not finite"):
        score_trajectory(broken, truth)
    with pytest.raises(UserError, match="pose 4 of the ground truth is not finite"):
        score_trajectory(truth, broken)
