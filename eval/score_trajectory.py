"""`scal3r score trajectory`: an estimated trajectory against the true one, as one line of JSON.

The estimate is a TUM or KITTI file or a scene folder; the truth a file of that kind, or the poses of a sequence of an
index. Shapes: S poses.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from scal3r_train.config import UserError
from scal3r_train.data.index.source import names_index, open_source
from scal3r_train.data.io.frame_io import true_world_from_cam
from scal3r_train.metrics.relative_pose import RpeStep
from scal3r_train.metrics.trajectory import NEXT_FRAME, AlignMode, alignment_warnings, score_trajectory
from scal3r_train.metrics.trajectory_io import (
    MatchedTrajectories,
    Trajectory,
    match_trajectories,
    read_trajectory,
)
from scal3r_train.notes import answer
from scal3r_train.scene.folder import INFO_NAME
from scal3r_train.scene.scene import TRAJECTORY_NAME, open_scene
from scal3r_train.scene.visualization.ground_truth import poses_by_frame

FramesMatch = Literal["check", "force"]


def match_files(
    estimate: Path,
    truth: str | os.PathLike[str],
    max_time_difference: float,
    frames_match: FramesMatch = "check",
) -> MatchedTrajectories:
    """Pair the poses of an estimate (TUM or KITTI) with true ones, a file of that kind or INDEX.parquet#sequence_id.

    Poses of an index have times and numbers, and are paired by what the estimate has. A scene folder knows the numbers
    of its frames, so that a KITTI file pairs with it too; a truth with another number of frames than its input had, or
    of other images, is refused unless frames_match is "force". Of any other folder trajectory.tum is read. Raises
    UserError for what cannot be read or paired.
    """
    truth = os.fspath(truth)
    if (estimate / INFO_NAME).is_file():
        return _match_scene(estimate, truth, max_time_difference, frames_match)
    ours = read_trajectory(estimate / TRAJECTORY_NAME if estimate.is_dir() else estimate)
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


def _match_scene(
    folder: Path, truth: str, max_time_difference: float, frames_match: FramesMatch
) -> MatchedTrajectories:
    scene, points = open_scene(folder)
    points.close()
    frames, true_poses, num_true = poses_by_frame(
        truth, scene, max_time_difference, insist=frames_match == "force"
    )
    if not len(frames):
        raise UserError(f"no pose of {truth} belongs to a frame of scene {folder}; is it of another video?")
    return MatchedTrajectories(
        scene.world_from_cam[frames],
        true_poses,
        len(scene.world_from_cam) - len(frames.unique()),
        num_true - len(frames),
    )


def main(
    estimate: Path,
    ground_truth: str | os.PathLike[str],
    align: AlignMode = "sim3",
    max_time_difference: float = 0.01,
    rpe_step: tuple[float, Literal["frames", "m"]] = (1.0, "frames"),
    frames_match: FramesMatch = "check",
) -> int:
    """Score a trajectory file and print the result; returns 0. Raises UserError as `score_files` does."""
    result = score_files(estimate, ground_truth, align, max_time_difference, RpeStep(*rpe_step), frames_match)
    answer(json.dumps(result, allow_nan=False))
    return 0


def score_files(
    estimate: Path,
    ground_truth: str | os.PathLike[str],
    align: AlignMode = "sim3",
    max_time_difference: float = 0.01,
    rpe_step: RpeStep = NEXT_FRAME,
    frames_match: FramesMatch = "check",
) -> dict[str, Any]:
    """Errors of one trajectory file: all of `TrajectoryScore`, the alignment, the step of the RPE, and how many
    poses had no partner, their shares, and what the alignment leaves open.

    The ground truth is a TUM or KITTI file, or INDEX.parquet#sequence_id. Raises UserError for files or arguments that
    cannot be scored.
    """
    if align not in get_args(AlignMode):
        raise UserError(f"align is '{align}'; give one of {', '.join(get_args(AlignMode))}")
    if not (math.isfinite(max_time_difference) and max_time_difference >= 0):
        raise UserError(f"the largest time difference is {max_time_difference}; give seconds, 0 or more")
    matched = match_files(estimate, ground_truth, max_time_difference, frames_match)
    score = score_trajectory(matched.estimate, matched.truth, align, rpe_step)
    return score.as_dict() | {
        "align": align,
        "rpe_delta": rpe_step.delta,
        "rpe_unit": rpe_step.unit,
        "num_unmatched_estimate": matched.num_unmatched_estimate,
        "num_unmatched_ground_truth": matched.num_unmatched_truth,
        "matched_share_estimate": matched.share_of_estimate,
        "matched_share_ground_truth": matched.share_of_truth,
        "warnings": alignment_warnings(matched.estimate, matched.truth, align),
    }
