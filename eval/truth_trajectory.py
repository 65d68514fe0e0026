"""True cameras for scoring: a trajectory file, or the poses of a sequence of an index. Shapes: S poses."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from scal3r_train.config import UserError
from scal3r_train.data.frame_io import true_world_from_cam
from scal3r_train.data.source import names_index, open_source
from scal3r_train.metrics.trajectory_io import (
    MatchedTrajectories,
    Trajectory,
    match_trajectories,
    read_trajectory,
)


def match_files(
    estimate: Path, truth: str | os.PathLike[str], max_time_difference: float
) -> MatchedTrajectories:
    """Pair the poses of an estimate (TUM or KITTI) with true ones, a file of that kind or INDEX.parquet#sequence_id.

    Poses of an index have times and numbers, and are paired by what the estimate has. Raises UserError for what cannot
    be read or paired.
    """
    ours = read_trajectory(estimate)
    truth = os.fspath(truth)
    if not names_index(truth):
        return match_trajectories(ours, read_trajectory(Path(truth)), max_time_difference)
    record = open_source(truth)
    if record.cam_from_world is None:
        raise UserError(f"{truth} has no poses; give another ground truth")
    world_from_cam = true_world_from_cam(record)
    if ours.timestamps is None:
        return match_trajectories(ours, Trajectory(world_from_cam, None), max_time_difference)
    times = torch.from_numpy(record.timestamp).double()
    order = times.argsort(stable=True)
    return match_trajectories(ours, Trajectory(world_from_cam[order], times[order]), max_time_difference)
