"""What one trained model scores on one held-out town under one condition."""

from __future__ import annotations

import math

import torch

from scal3r_eval.study.chunk_errors import chunk_motion, motion_errors
from scal3r_eval.study.predict import Condition, predict_chunks
from scal3r_eval.study.towns import HeldOutTown
from scal3r_train.geometry.camera import fov_from_intrinsics
from scal3r_train.inference.align import AlignmentSettings
from scal3r_train.inference.layout import Layout
from scal3r_train.inference.placed_frames import PlacedFrames
from scal3r_train.inference.placement import Placement
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.inference.stitch import align_neighbours, place_chunks
from scal3r_train.metrics.trajectory import score_trajectory
from scal3r_train.model.modeling_scal3r import Scal3RModel

STITCHING = {"ate": "sim3", "ate_se3": "se3"}
Scores = dict[str, float | None]


def score_chunks(model: Scal3RModel, town: HeldOutTown, condition: Condition) -> Scores:
    """Return `motion_errors` of the town's chunks."""
    return _chunk_scores(predict_chunks(model, town.chunk_images, condition), town)


def score_town(
    model: Scal3RModel, town: HeldOutTown, condition: Condition, recipe: ReconstructionRecipe
) -> Scores:
    """Return `motion_errors` and the errors of the stitched path.

    `ate_percent`, `ate_se3_percent`: ATE after Sim(3) alignment of the whole path over its true length, stitched by
    similarities and by rigid motions (which keep every chunk's own scale).
    """
    predictions = predict_chunks(model, town.chunk_images, condition)
    scores = _chunk_scores(predictions, town)
    for name, mode in STITCHING.items():
        alignment = AlignmentSettings(**recipe.alignment.model_dump() | {"mode": mode})
        stitched = stitch(predictions, town, recipe.model_copy(update={"alignment": alignment}))
        scores[f"{name}_percent"] = score_trajectory(stitched, town.world_from_cam, "sim3").ate_percent
    return scores


def stitch(
    predictions: list[ChunkPrediction], town: HeldOutTown, recipe: ReconstructionRecipe
) -> torch.Tensor:
    """Return world_from_cam [F, 3, 4] of all frames as `scal3r reconstruct` would place them, without loops."""
    layout = Layout.plan(len(town.images), recipe.schedule, 1)
    by_number = dict(enumerate(predictions))
    found = align_neighbours(by_number, {}, layout.ranges, recipe.alignment, recipe.points)
    seams = [found[number] for number in range(len(predictions) - 1)]
    placement = Placement(place_chunks(seams, predictions[0].extrinsics[0]), seams, math.nan)
    placed: list[PlacedFrames] = []
    for number, prediction in by_number.items():
        placed += placement.decided_frames(prediction, by_number.get(number + 1), number, layout, recipe)
    return torch.cat([part.world_from_cam for part in placed])


def _chunk_scores(predictions: list[ChunkPrediction], town: HeldOutTown) -> Scores:
    extrinsics = torch.stack([prediction.extrinsics for prediction in predictions])
    intrinsics = torch.stack([prediction.intrinsics for prediction in predictions])
    image_hw = town.images.shape[-2], town.images.shape[-1]
    fov_w = fov_from_intrinsics(intrinsics, image_hw)[..., 1]
    return motion_errors(chunk_motion(extrinsics, fov_w, town.unit_m), town.motion, town.views)
