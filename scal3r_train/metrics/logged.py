"""The names of all numbers that training, validation and evaluation write: unit, which end is good, what they are.

docs/logged_metrics.md is generated from this list (`make reference`), and tests compare it with what runs write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "-"]


@dataclass(frozen=True)
class LoggedMetric:
    """One name, or all names of one pattern.

    Attributes:
        name: as it is written; `<...>` stands for a name or a number.
        unit: of the value; `-` for none, `share` from 0 to 1.
        better: which end is good; `-` where neither is.
        sentence: what it is.
        computed_in: file below scal3r_train/, or eval/.
    """

    name: str
    unit: str
    better: Better
    sentence: str
    computed_in: str

    def matches(self, name: str) -> bool:
        """Return whether this describes a name that a run wrote."""
        pattern = "".join(
            "[A-Za-z0-9_.-]+" if part.startswith("<") else re.escape(part)
            for part in re.split(r"(<[a-z]+>)", self.name)
        )
        return re.fullmatch(pattern, name) is not None


def _losses() -> tuple[LoggedMetric, ...]:
    camera, dense = "losses/camera.py", "losses/depth_and_points.py"
    motion = "losses/motion.py"
    terms = (
        (
            "camera_translation",
            camera,
            "Error of the cameras' translations, over the refinements of the camera head",
        ),
        ("camera_rotation", camera, "Error of the cameras' quaternions, over the refinements"),
        ("camera_fov", camera, "Error of the cameras' fields of view, over the refinements"),
        (
            "depth_confidence",
            dense,
            "Error of depth weighted by its confidence, less the reward for confidence",
        ),
        ("depth_regression", dense, "Plain error of depth"),
        ("depth_gradient_<stride>", dense, "Error of depth's differences between pixels a stride apart"),
        ("points_confidence", dense, "Error of the point map weighted by its confidence, less the reward"),
        ("points_regression", dense, "Plain error of the point map"),
        ("points_normal_<stride>", dense, "Error of the point map's normals between pixels a stride apart"),
        (
            "motion_turn",
            motion,
            "Error of the turns between neighbours that the direct encoder measured, radians",
        ),
        (
            "motion_translation",
            motion,
            "Error of its translations between neighbours, relative to their lengths",
        ),
        ("motion_fov", motion, "Error of its fields of view, radians"),
        ("motion_log_depth", motion, "Error of its log depth"),
    )
    return tuple(
        LoggedMetric(name, "-", "lower", f"{sentence}; without its weight.", where)
        for name, where, sentence in terms
    )


def _pose_and_depth(prefix: str, of: str) -> tuple[LoggedMetric, ...]:
    where = "training/monitoring/chunk_errors.py"
    return (
        LoggedMetric(
            f"{prefix}/rotation_deg",
            "deg",
            "lower",
            f"Angle of relative rotations, mean over pairs {of}.",
            where,
        ),
        LoggedMetric(
            f"{prefix}/direction_deg",
            "deg",
            "lower",
            f"Angle of relative directions, mean over pairs {of}.",
            where,
        ),
        LoggedMetric(
            f"{prefix}/auc_<degrees>",
            "share",
            "higher",
            f"Area under the accuracy curve of the worse of both angles, up to so many degrees, {of}.",
            where,
        ),
        LoggedMetric(
            f"{prefix}/abs_rel",
            "share",
            "lower",
            f"Absolute relative error of depth after median scaling, {of}.",
            where,
        ),
    )


def _memories() -> tuple[LoggedMetric, ...]:
    where = "training/monitoring/amu_probe.py"
    return (
        LoggedMetric(
            "amu/<layer>/gradient_norm",
            "-",
            "-",
            "Norm of a memory's summed chunk gradient, mean over sequences.",
            where,
        ),
        LoggedMetric(
            "amu/<layer>/update_<matrix>",
            "share",
            "-",
            "Norm of W' - W over norm of W for a matrix of the memory, mean over sequences.",
            where,
        ),
        LoggedMetric(
            "amu/<layer>/gate",
            "-",
            "-",
            "Mean absolute gate over patch tokens and channels of real chunks.",
            where,
        ),
    )


def _shares_of_time() -> tuple[LoggedMetric, ...]:
    phases = {
        "data": "waiting for data",
        "forward": "forward",
        "sync": "collectives of the memories, forward and backward",
        "backward": "backward, the engine's exchange of gradients included",
        "optimizer": "the update",
        "other": "everything else",
    }
    return tuple(
        LoggedMetric(
            f"time/{name}",
            "share",
            "-",
            f"Of the time of all steps since the last line: {what}; the shares add up to 1.",
            "training/monitoring/step_profiler.py",
        )
        for name, what in phases.items()
    )


def _work() -> tuple[LoggedMetric, ...]:
    where = "training/monitoring/step_profiler.py"
    rows: tuple[tuple[str, str, Better, str], ...] = (
        ("throughput/frames_per_s", "frames/s", "higher",
         "Frames of all ranks together since the last line, without padding."),
        ("throughput/tokens_per_s", "tokens/s", "higher",
         "Tokens of all ranks together since the last line, without padding."),
        (
            "throughput/mfu",
            "share",
            "higher",
            "Operations of forward and backward, none counted twice for checkpointing, over the dense bf16 peak of the "
            "devices; only where the peak is known.",
        ),
        ("memory/resident_gib", "GiB", "lower", "Resident set of the largest rank."),
        ("memory/allocated_gib", "GiB", "lower", "Peak of CUDA's tensors since the start, of the largest rank."),
        ("memory/reserved_gib", "GiB", "lower", "Peak held by CUDA's allocator since the start, of the largest rank."),
        ("plan/groups", "groups", "-", "Context groups of the step; accumulated plans together."),
        ("plan/largest_group", "ranks", "-", "Ranks of the step's largest context group."),
        ("plan/sequences", "sequences", "-", "Sequences of the step, without padding."),
        ("plan/chunks", "chunks", "-", "Chunks of the step, without padding."),
        ("plan/frames", "frames", "-", "Frames of the step, without padding."),
        ("plan/tokens", "tokens", "-", "Tokens of the step, without padding."),
    )  # fmt: skip
    return tuple(LoggedMetric(*row, where) for row in rows)


TRAINING: tuple[LoggedMetric, ...] = (
    LoggedMetric("step", "steps", "-", "Completed optimizer steps.", "training/monitoring/sinks.py"),
    LoggedMetric(
        "loss",
        "-",
        "lower",
        "Weighted sum of the losses, mean over the step's chunks or sequences (`losses.average`).",
        "training/step.py",
    ),
    *_losses(),
    LoggedMetric(
        "weighted/<loss>",
        "-",
        "lower",
        "A loss with its weight; all of them add up to `loss`.",
        "training/step.py",
    ),
    LoggedMetric("grad_norm", "-", "-", "Norm of the whole gradient before clipping.", "training/step.py"),
    LoggedMetric(
        "grad_norm/<part>",
        "-",
        "-",
        "The same of the memories (`memory`) and of everything else (`backbone`).",
        "training/step.py",
    ),
    LoggedMetric(
        "lr/<group>",
        "rate",
        "-",
        "Learning rate of a group of the optimizer, of this step.",
        "training/trainer.py",
    ),
    LoggedMetric(
        "seconds",
        "s",
        "lower",
        "Wall time of the step on the main rank, without waiting for data.",
        "training/step.py",
    ),
    LoggedMetric(
        "skipped_steps",
        "steps",
        "lower",
        "Steps of the run so far that made no update.",
        "training/trainer.py",
    ),
    *_pose_and_depth("train", "of the batch that is trained on, before the update"),
    LoggedMetric(
        "val/loss",
        "-",
        "lower",
        "The loss that is trained, mean over the chunks or sequences of all validation windows.",
        "training/validation.py",
    ),
    *_pose_and_depth("val", "of the validation windows"),
    *_memories(),
    *_shares_of_time(),
    *_work(),
    LoggedMetric(
        "data/fallbacks",
        "sequences",
        "lower",
        "Sequences of the run so far that were replaced by others.",
        "training/data_faults.py",
    ),
    LoggedMetric(
        "data/skipped_frames",
        "frames",
        "lower",
        "Frames of the run so far that could not be read, or not with their depth.",
        "training/data_faults.py",
    ),
    LoggedMetric(
        "data/skipped_frames/<set>", "frames", "lower", "The same of one data set.", "training/data_faults.py"
    ),
    LoggedMetric(
        "data/frames/<index>",
        "frames",
        "-",
        "Frames of a source shown so far, named by its file (its folder, where all files are called index); those of "
        "overlaps as often as shown.",
        "training/progress.py",
    ),
)

_TRAJECTORY = "metrics/trajectory.py"
_POINTS = "metrics/points.py"
_DEPTH = "metrics/depth.py"

EVALUATION: tuple[LoggedMetric, ...] = (
    LoggedMetric("ate_rmse_m", "m", "lower", "Rms distance of aligned camera centres.", _TRAJECTORY),
    LoggedMetric("ate_mean_m", "m", "lower", "Mean distance of aligned camera centres.", _TRAJECTORY),
    LoggedMetric("ate_median_m", "m", "lower", "Median distance of aligned camera centres.", _TRAJECTORY),
    LoggedMetric("ate_max_m", "m", "lower", "Largest distance of aligned camera centres.", _TRAJECTORY),
    LoggedMetric("ate_percent", "%", "lower", "`ate_rmse_m` over the length of the true path.", _TRAJECTORY),
    LoggedMetric(
        "rte_m_per_100m",
        "m/100 m",
        "lower",
        "KITTI's error of translation over segments of 100 to 800 m.",
        _TRAJECTORY,
    ),
    LoggedMetric(
        "rre_deg_per_100m",
        "deg/100 m",
        "lower",
        "KITTI's error of rotation over segments of 100 to 800 m.",
        _TRAJECTORY,
    ),
    LoggedMetric(
        "rpe_translation_m",
        "m",
        "lower",
        "Rms error of the motion's length over steps from frame to frame.",
        _TRAJECTORY,
    ),
    LoggedMetric(
        "rpe_rotation_deg",
        "deg",
        "lower",
        "Rms error of the motion's angle over steps from frame to frame.",
        _TRAJECTORY,
    ),
    LoggedMetric(
        "auc_<degrees>",
        "share",
        "higher",
        "Area under the accuracy curve of relative poses up to so many degrees.",
        _TRAJECTORY,
    ),
    LoggedMetric("scale", "factor", "-", "What the alignment multiplied the estimate by.", _TRAJECTORY),
    LoggedMetric("path_length_m", "m", "-", "Length of the true path.", _TRAJECTORY),
    LoggedMetric("num_poses", "poses", "-", "Poses of the estimate that have a true one.", _TRAJECTORY),
    LoggedMetric("num_rpe_pairs", "pairs", "-", "Steps behind the two errors of motion.", _TRAJECTORY),
    LoggedMetric("num_auc_pairs", "pairs", "-", "Pairs of frames behind the areas.", _TRAJECTORY),
    LoggedMetric(
        "accuracy_m",
        "m",
        "lower",
        "Mean distance from the estimate's points to the nearest true point.",
        _POINTS,
    ),
    LoggedMetric("accuracy_median_m", "m", "lower", "Median of these distances.", _POINTS),
    LoggedMetric(
        "completeness_m",
        "m",
        "lower",
        "Mean distance from the true points to the nearest of the estimate.",
        _POINTS,
    ),
    LoggedMetric("completeness_median_m", "m", "lower", "Median of these distances.", _POINTS),
    LoggedMetric("chamfer_m", "m", "lower", "Mean of `accuracy_m` and `completeness_m`.", _POINTS),
    LoggedMetric(
        "precision",
        "share",
        "higher",
        "Of the estimate's points, those nearer to the truth than the threshold.",
        _POINTS,
    ),
    LoggedMetric(
        "recall",
        "share",
        "higher",
        "Of the true points, those nearer to the estimate than the threshold.",
        _POINTS,
    ),
    LoggedMetric("f1", "share", "higher", "Harmonic mean of precision and recall.", _POINTS),
    LoggedMetric("depth_abs_rel", "share", "lower", "Mean absolute relative error of scaled depth.", _DEPTH),
    LoggedMetric(
        "depth_delta_<power>",
        "share",
        "higher",
        "Pixels whose depth is within a factor of 1.25 to this power.",
        _DEPTH,
    ),
)


def described_metric(name: str, among: tuple[LoggedMetric, ...]) -> LoggedMetric | None:
    """Return the entry that describes a name that a run wrote; None: the list lacks it."""
    return next((one for one in among if one.matches(name)), None)
