"""The true cameras of a scene, in the scene's own world, and how far the scene's cameras are from them.

Shapes: S frames, M of them with a true pose.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.index.source import names_index, open_source
from scal3r_train.data.io.frame_io import true_world_from_cam
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory import TrajectoryScore, align_trajectory, score_trajectory
from scal3r_train.metrics.trajectory_io import Trajectory, match_timestamps, read_trajectory
from scal3r_train.scene.scene import Scene, SceneCameras

MAX_TIME_DIFFERENCE = 0.01
INSIST = "score it with --frames-match=force"


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """True cameras laid over a scene by the similarity that fits camera centres best.

    Attributes:
        source: where they are from.
        frames: [M] int64 frames of the scene that have a true pose, ascending.
        world_from_cam: [M, 3, 4] float64, in the scene's world.
        score: errors in the truth's units, after the same alignment.
    """

    source: str
    frames: Tensor
    world_from_cam: Tensor
    score: TrajectoryScore

    @property
    def line(self) -> str:
        """The errors in one line."""
        share = "" if self.score.ate_percent is None else f" = {self.score.ate_percent:.3g} % of the path"
        return (
            f"ATE {self.score.ate_rmse_m:.4g} m{share} ({self.score.path_length_m:.4g} m), "
            f"{self.score.num_poses} poses aligned by Sim(3), scale {self.score.scale:.4g}"
        )


def load_ground_truth(source: str | os.PathLike[str], scene: Scene) -> GroundTruth:
    """Return the truth of a scene.

    Args:
        source: INDEX.parquet#sequence_id of the input or of a copy of it, or a file of poses. Poses in KITTI format
            belong to the input's frames 0, 1, ..; those in TUM format are matched by time, or likewise by number when
            the scene has no times.
        scene: what it is the truth of.

    Raises:
        UserError: the source cannot be read, or fewer than three of its poses belong to frames of the scene.
    """
    name = os.fspath(source)
    frames, truth, _ = poses_by_frame(name, scene, insist=True)  # to look at, a part of the path will do
    if len(frames) < 3:
        raise UserError(
            f"{len(frames)} poses of {name} belong to frames of the scene; is it of another video?"
        )
    estimate = scene.world_from_cam[frames]
    score = score_trajectory(estimate, truth, "sim3")
    truth_from_scene = align_trajectory(estimate, truth, "sim3")
    if not truth_from_scene.scale > 0:
        raise UserError(
            "all cameras of the scene are at one place, so the ground truth cannot be laid over it"
        )
    return GroundTruth(name, frames, truth_from_scene.inverse().apply_to_world_from_cam(truth), score)


def poses_by_frame(
    name: str, scene: SceneCameras, max_time_difference: float = MAX_TIME_DIFFERENCE, *, insist: bool = False
) -> tuple[Tensor, Tensor, int]:
    """Return frames of the scene [M], their true world_from_cam [M, 3, 4] in the truth's own world, and how many poses
    the truth has.

    Takes and raises what `load_ground_truth` does, but for the number of poses.

    Args:
        name: of the truth.
        scene: whose frames they are.
        max_time_difference: seconds.
        insist: take frame numbers as they are, also of a truth with another number of frames, or other images, than the
            scene's input had; otherwise that is refused.
    """
    numbers = torch.tensor(scene.info.frame_indices)
    if names_index(name):
        record = open_source(name)
        if record.cam_from_world is None:
            raise UserError(f"{name} has no poses; give another ground truth")
        if not insist:
            _refuse_other_input(name, record, scene)
        return _by_number(numbers, true_world_from_cam(record))
    trajectory = read_trajectory(Path(name))
    if trajectory.timestamps is None:
        if not insist:
            _refuse_other_count(name, len(trajectory), scene)
        return _by_number(numbers, trajectory.world_from_cam)
    if torch.equal(scene.timestamps, numbers.double()):
        return _tum_without_times(name, scene, numbers, trajectory)
    frames, rows = match_timestamps(scene.timestamps, trajectory.timestamps, max_time_difference)
    return frames, trajectory.world_from_cam[rows], len(trajectory)


def _refuse_other_input(name: str, record: SequenceRecord, scene: SceneCameras) -> None:
    """Raise UserError for a sequence with another number of frames, or none of whose images is called as ours are."""
    _refuse_other_count(name, record.num_frames, scene)
    pairs = [
        (_stem(frame.name), _stem(record.image[number]))
        for frame, number in zip(scene.frames, scene.info.frame_indices, strict=True)
    ]
    if all(ours != theirs for ours, theirs in pairs) and not any("#" in one for one in pairs[0]):
        raise UserError(
            f"{name} calls its images {pairs[0][1]}, the scene's input calls them {pairs[0][0]}: it is of another "
            f"video; give its truth, or {INSIST}"
        )


def _stem(name: str) -> str:
    """What an image is called, without folders and suffix; a video's frame keeps its number."""
    path = PurePosixPath(name)
    return path.name if "#" in path.name else path.stem


def _refuse_other_count(name: str, num: int, scene: SceneCameras) -> None:
    num_input = scene.info.input.get("num_frames")
    if num_input is not None and num != num_input:
        raise UserError(
            f"{name} has {num} frames, the scene's input had {num_input}: it may be of another video, or cut "
            f"otherwise; give the truth of that input, or {INSIST}"
        )


def _tum_without_times(
    name: str, scene: SceneCameras, numbers: Tensor, trajectory: Trajectory
) -> tuple[Tensor, Tensor, int]:
    """Match by number, which is certain only when the file has one pose for every frame of the input."""
    num_input = scene.info.input.get("num_frames")
    if len(trajectory) != num_input:
        raise UserError(
            f"the scene has no times and {name} has {len(trajectory)} poses for {num_input} images, so they cannot be "
            "matched; give a KITTI file, an index row, or times to the reconstruction (input.timestamps)"
        )
    return _by_number(numbers, trajectory.world_from_cam)


def _by_number(numbers: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, int]:
    """Give the scene's frames, whose `numbers` [S] in the input are known, the poses of those numbers."""
    frames = (numbers < len(poses)).nonzero()[:, 0]
    truth = poses[numbers[frames]]
    is_known = truth.isfinite().flatten(1).all(dim=1)
    return frames[is_known], truth[is_known], int(poses.isfinite().flatten(1).all(dim=1).sum())
