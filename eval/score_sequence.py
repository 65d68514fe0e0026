"""Second stage of `scal3r eval`: poses, points and depth of one sequence against the truth, as scores.json.

`score_sequence` is what pipeline.py calls; aligned.tum and point_errors.jpg are left beside the scores for the report.
Shapes: S frames of the sequence, N of them with a pose of the method and a true one, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scal3r_eval.added_metrics import ToScore, added_scores, metric_versions
from scal3r_eval.code_identity import SCORING_SHA256
from scal3r_eval.methods import Estimate, Run, estimate_identity, load_estimate
from scal3r_eval.recipe import TRUTH_FOLDER, EvalRecipe
from scal3r_eval.results import (
    ALIGNED_NAME,
    POINT_ERRORS_NAME,
    SCORES_NAME,
    SequenceScores,
    read_scores_if_equal,
)
from scal3r_eval.score_sequence_points import score_sequence_points
from scal3r_eval.sequences import EvalSequence
from scal3r_eval.truth_cloud import truth_files_sha256
from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.camera.resize import ResizeRule
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.metrics.depth import DepthScale, depth_errors
from scal3r_train.metrics.trajectory import (
    MIN_POSES,
    align_trajectory,
    alignment_warnings,
    score_trajectory,
)
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.folder import INFO_NAME
from scal3r_train.scene.scene import load_scene_info, read_depth

MAX_FRAMES = 200  # evenly over the sequence, so that memory does not grow with it
METRICS = ("abs_rel", "delta_1", "delta_2", "delta_3")


def score_sequence_depth(scene: Path, sequence: EvalSequence, scale: DepthScale) -> dict[str, float | None]:
    """Return `depth_errors` of at most MAX_FRAMES frames at the size that they were processed at.

    Raises:
        UserError: scene.json or a depth file is missing or damaged, or no pixel can be compared.
    """
    record = sequence.record
    known = [place for place, frame in enumerate(sequence.frame_indices) if record.depth[frame]]
    if not known:
        raise UserError(f"{sequence.name} has no depth; set protocol.depth=null")
    chosen = np.unique(np.linspace(0, len(known) - 1, min(MAX_FRAMES, len(known))).round().astype(int))
    places = [known[number] for number in chosen]
    estimate = [read_depth(scene, place) for place in places]
    size = _size(scene, estimate[0])
    truth = []
    for place in places:
        frames = read_frames(record, [sequence.frame_indices[place]], size)
        assert frames.depth is not None, "the record has depth"
        truth.append(frames.depth[0])
    errors = depth_errors(torch.from_numpy(np.stack(estimate)), torch.stack(truth), scale).as_dict()
    return {f"depth_{name}": float(errors[name]) for name in METRICS}


def _size(scene: Path, depth: np.ndarray) -> tuple[int, int] | ResizeRule:
    """Return how the frames of a scene were sized: the rule of its recipe, which also says what is cut, or (H, W).

    Raises:
        UserError: scene.json is missing or damaged.
    """
    recipe = load_scene_info(scene).recipe
    given = validate_mapping(InputSettings, recipe.get("input", {}), f"input of {scene / INFO_NAME}")
    if given.image_hw is None and given.resize is not None:
        return given.resize
    return depth.shape[0], depth.shape[1]


def score_sequence(
    run: Run, sequence: EvalSequence, recipe: EvalRecipe, failure: str | None = None
) -> SequenceScores:
    """Return the scores of a run on a sequence, computed unless its files hold them already, and write them.

    Points or depth that cannot be scored are a failure of their measures alone: the poses keep theirs.

    Args:
        run: of any method.
        sequence: with the frames that were given to it.
        recipe: for the protocol.
        failure: why there is nothing to score, if the method failed.
    """
    folder = run.folder / sequence.folder
    path = folder / SCORES_NAME
    identity: dict[str, Any] = {}
    if failure is None:
        try:
            identity = _identity(run, sequence, recipe)
        except UserError as error:
            failure = str(error)
    if failure is None:
        known = read_scores_if_equal(path, identity)
        if known is not None:
            return known
        try:
            scores = _scored(run, sequence, recipe, identity, folder)
        except UserError as error:
            failure = str(error)
    if failure is not None:
        scores = _empty(run, sequence, identity).model_copy(update={"failure": _in_one_line(failure)})
    scores.write(path)
    return scores


def write_truth(sequence: EvalSequence, output_dir: Path) -> None:
    """Write the true poses of a sequence for the report; times are the input's frame numbers."""
    known = sequence.has_truth.nonzero()[:, 0]
    write_trajectory(
        truth_path(output_dir, sequence.folder),
        Trajectory(sequence.truth[known], _frame_numbers(sequence)[known]),
        "tum",
    )


def truth_path(output_dir: Path, folder: str) -> Path:
    """Return where the true poses of a sequence are kept."""
    return output_dir / TRUTH_FOLDER / f"{folder}.tum"


def _identity(run: Run, sequence: EvalSequence, recipe: EvalRecipe) -> dict[str, Any]:
    protocol = recipe.protocol
    needs_depth = protocol.points is not None or protocol.depth is not None
    return {
        "code_sha256": SCORING_SHA256,
        "align": protocol.align,
        "max_time_difference_s": protocol.max_time_difference_s,
        "min_coverage": protocol.min_coverage,
        "points": None if protocol.points is None else protocol.points.model_dump(mode="json"),
        "depth": protocol.depth,
        "metrics": metric_versions(protocol.metrics),
        "frames_sha256": sequence.frames_sha256,
        "truth_sha256": sequence.truth_sha256,
        "truth_files_sha256": truth_files_sha256(sequence) if needs_depth else None,
        "estimate": estimate_identity(run, sequence),
    }


def _scored(
    run: Run, sequence: EvalSequence, recipe: EvalRecipe, identity: dict[str, Any], folder: Path
) -> SequenceScores:
    protocol = recipe.protocol
    estimate = _with_truth(load_estimate(run, sequence, protocol.max_time_difference_s), sequence)
    num_true = int(sequence.has_truth.sum())
    if len(estimate.places) < max(MIN_POSES, protocol.min_coverage * num_true):
        raise UserError(
            f"{len(estimate.places)} of {num_true} frames have a pose, fewer than protocol.min_coverage allows"
        )
    truth = sequence.truth[estimate.places]
    # Of a method with poses on some frames alone, the same steps and segments as of one with all.
    metrics: dict[str, Any] = score_trajectory(
        estimate.world_from_cam, truth, protocol.align, frames=estimate.places
    ).as_dict()
    truth_from_estimate = align_trajectory(estimate.world_from_cam, truth, protocol.align)
    notes = dict(estimate.notes)
    if open_questions := alignment_warnings(estimate.world_from_cam, truth, protocol.align):
        notes["alignment"] = open_questions
    partial_failures: dict[str, str] = {}
    # A picture of before would stand beside scores that it does not belong to.
    (folder / POINT_ERRORS_NAME).unlink(missing_ok=True)
    if protocol.points is not None and estimate.points is not None:
        if not sequence.record.depth:
            notes["points_skipped"] = "the index has no true depth for this sequence"
        else:
            with _failing_alone("points", partial_failures):
                if not truth_from_estimate.scale > 0:
                    raise UserError(
                        "all cameras of the estimate are at one place and cannot align its points"
                    )
                found, what = score_sequence_points(
                    estimate.points, truth_from_estimate, sequence, protocol.points, recipe.output_dir, folder
                )
                metrics |= found
                notes |= what
    if protocol.depth is not None and estimate.depth_folder is not None and sequence.record.depth:
        with _failing_alone("depth", partial_failures):
            metrics |= score_sequence_depth(estimate.depth_folder, sequence, protocol.depth)
    aligned = truth_from_estimate.apply_to_world_from_cam(estimate.world_from_cam)
    found, reason = added_scores(protocol.metrics, ToScore(aligned, truth, estimate, sequence))
    metrics |= found
    if reason:
        partial_failures["added"] = _in_one_line(reason)
    write_trajectory(
        folder / ALIGNED_NAME, Trajectory(aligned, _frame_numbers(sequence)[estimate.places]), "tum"
    )
    return _empty(run, sequence, identity).model_copy(
        update={
            "num_poses": len(estimate.places),
            "metrics": metrics,
            "resources": estimate.resources,
            "notes": notes,
            "partial_failures": partial_failures,
        }
    )


@contextmanager
def _failing_alone(part: str, partial_failures: dict[str, str]) -> Iterator[None]:
    """Note why the body could not score its part, and go on: the others keep their scores."""
    try:
        yield
    except UserError as error:
        partial_failures[part] = _in_one_line(error)


def _with_truth(estimate: Estimate, sequence: EvalSequence) -> Estimate:
    """Return the estimate of those frames that have a true pose."""
    keep = sequence.has_truth[estimate.places]
    return Estimate(
        **{
            **vars(estimate),
            "places": estimate.places[keep],
            "world_from_cam": estimate.world_from_cam[keep],
        }
    )


def _empty(run: Run, sequence: EvalSequence, identity: dict[str, Any]) -> SequenceScores:
    return SequenceScores(
        identity=identity,
        method=run.method,
        run=run.number,
        sequence=sequence.name,
        num_frames=len(sequence.frame_indices),
        num_poses=0,
    )


def _frame_numbers(sequence: EvalSequence) -> torch.Tensor:
    return torch.tensor(sequence.frame_indices, dtype=torch.float64)


def _in_one_line(reason: UserError | str) -> str:
    return " ".join(str(reason).split())
