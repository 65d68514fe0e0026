"""Baselines are the best of their kind: exact where the truth is of their kind, and what they claim elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scal3r_eval.baselines import BASELINES, constant_turn, mean_speed, mean_turn_rad, static, straight_line
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.data.synthetic.town import TownDrive
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.metrics.trajectory import score_trajectory

NUM_FRAMES = 40


def drive(headings: np.ndarray, steps: np.ndarray) -> Tensor:
    """world_from_cam [S, 3, 4] of a level camera in a world with z up that looks where it drives.

    headings: [S] radians counter-clockwise from x. steps: [S - 1] metres, along the mean of two headings.
    """
    zeros, ones = np.zeros_like(headings), np.ones_like(headings)
    forward = np.stack([np.cos(headings), np.sin(headings), zeros], -1)
    right = np.stack([np.sin(headings), -np.cos(headings), zeros], -1)
    down = np.stack([zeros, zeros, -ones], -1)
    middle = (headings[1:] + headings[:-1]) / 2
    moves = steps[:, None] * np.stack([np.cos(middle), np.sin(middle), np.zeros_like(middle)], -1)
    centres = np.concatenate([np.zeros((1, 3)), np.cumsum(moves, 0)]) + [5.0, -3.0, 1.5]
    return torch.from_numpy(np.concatenate([np.stack([right, down, forward, centres], -1)], -1))


def straight() -> Tensor:
    return drive(np.full(NUM_FRAMES, 0.7), np.full(NUM_FRAMES - 1, 0.5))


def circle(turn_rad: float) -> Tensor:
    return drive(0.3 + turn_rad * np.arange(NUM_FRAMES), np.full(NUM_FRAMES - 1, 0.5))


def town() -> Tensor:
    settings = TownSettings(num_frames=NUM_FRAMES, height=28, width=42)
    return invert_extrinsics(torch.from_numpy(TownDrive(settings, 3).extrinsics))


def ate_percent(estimate: Tensor, truth: Tensor) -> float:
    percent = score_trajectory(estimate, truth, "sim3").ate_percent
    assert percent is not None
    return percent


def test_a_straight_line_is_exact_on_a_straight_drive() -> None:
    assert ate_percent(straight_line(straight()), straight()) < 1e-6
    assert ate_percent(straight_line(circle(0.05)), circle(0.05)) > 5


@pytest.mark.parametrize("turn_rad", [0.05, -0.08, 0.2])
def test_constant_turn_is_exact_on_a_circle(turn_rad: float) -> None:
    truth = circle(turn_rad)
    score = score_trajectory(constant_turn(truth), truth, "sim3")
    assert score.ate_percent == pytest.approx(0, abs=1e-6)
    assert score.rpe_rotation_deg == pytest.approx(0, abs=1e-6)
    mirrored = constant_turn(circle(-turn_rad))  # seen from below its centres are the same circle
    assert score_trajectory(mirrored, truth, "se3").rpe_rotation_deg > math.degrees(abs(turn_rad))


def test_constant_turn_without_turn_is_the_straight_line() -> None:
    torch.testing.assert_close(constant_turn(straight()), straight_line(straight()), atol=1e-5, rtol=0)


def test_static_never_moves_and_aligns_with_scale_zero() -> None:
    truth = town()
    score = score_trajectory(static(truth), truth, "sim3")
    centres = truth[:, :, 3]
    spread = (centres - centres.mean(0)).square().sum(-1).mean().sqrt().item()
    assert score.scale == 0
    assert score.ate_rmse_m == pytest.approx(spread)


def test_mean_speed_and_turn() -> None:
    assert mean_speed(straight()) == pytest.approx(0.5)
    assert abs(mean_turn_rad(circle(0.1))) == pytest.approx(0.1)
    assert mean_turn_rad(circle(0.1)) == pytest.approx(-mean_turn_rad(circle(-0.1)))
    half = np.concatenate([np.zeros(20), 0.1 * np.arange(1, 21)])  # straight, then a bend
    assert abs(mean_turn_rad(drive(half, np.full(39, 0.5)))) == pytest.approx(0.1 * 20 / 39)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_are_rigid_and_know_the_mean_speed(name: str) -> None:
    truth = town()
    poses = BASELINES[name](truth)
    assert poses.shape == truth.shape and poses.dtype == torch.float64
    rotation = poses[:, :, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation))
    assert (torch.linalg.det(rotation) > 0).all()
    if name != "static":
        steps = poses[1:, :, 3].sub(poses[:-1, :, 3]).norm(dim=-1)
        assert steps.mean().item() == pytest.approx(mean_speed(truth), rel=0.01)
