"""Trajectories anyone can guess: what a reconstruction must beat.

Each is given the truth's own mean speed or turn, so it is the best of its kind. World frames are as in
`cam_from_world` of the truth; positions are [S, 3], poses world_from_cam [S, 3, 4]. Shapes: S frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRAIGHTEST_TURN_RAD = 1e-9


def static(truth: Tensor) -> Tensor:
    """Return identity poses: the camera never moves. A Sim(3) alignment can only give it scale 0."""
    return torch.eye(4, dtype=truth.dtype)[:3].expand(len(truth), 3, 4).clone()


def straight_line(truth: Tensor) -> Tensor:
    """Return a camera that drives straight ahead, along its z axis, at the truth's mean speed."""
    poses = static(truth)
    poses[:, 2, 3] = mean_speed(truth) * torch.arange(len(truth), dtype=truth.dtype)
    return poses


def constant_turn(truth: Tensor) -> Tensor:
    """Return a camera on a circle in its x-z plane: the truth's mean speed and mean signed turn about its y axis."""
    turn = mean_turn_rad(truth)
    angles = turn * torch.arange(len(truth), dtype=truth.dtype)
    poses = static(truth)
    poses[:, 0, 0] = poses[:, 2, 2] = angles.cos()
    poses[:, 0, 2], poses[:, 2, 0] = angles.sin(), -angles.sin()
    rate = turn if abs(turn) > STRAIGHTEST_TURN_RAD else STRAIGHTEST_TURN_RAD
    radius = mean_speed(truth) / rate
    arcs = rate * torch.arange(len(truth), dtype=truth.dtype)
    poses[:, 0, 3], poses[:, 2, 3] = radius * (1 - arcs.cos()), radius * arcs.sin()
    return poses


def mean_speed(truth: Tensor) -> float:
    """Return path length per frame."""
    return float(truth[1:, :, 3].sub(truth[:-1, :, 3]).norm(dim=-1).mean())


def mean_turn_rad(truth: Tensor) -> float:
    """Return the mean signed rotation about the camera's y axis from one frame to the next, in radians."""
    relative = truth[:-1, :, :3].mT @ truth[1:, :, :3]
    return float(torch.atan2(relative[:, 0, 2], relative[:, 2, 2]).mean())


BASELINES = {"static": static, "straight_line": straight_line, "constant_turn": constant_turn}
