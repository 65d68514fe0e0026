"""Scores of all trained models of a study on all held-out sequences; a model that is scored is not scored again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scal3r_eval.code_identity import STUDY_SHA256
from scal3r_eval.study.chunk_errors import (
    ChunkMotion,
    chunk_motion,
    copied_motion,
    motion_errors,
    prior_motion,
)
from scal3r_eval.study.held_out import HeldOutSequence, Reading, load_motion, load_sequences
from scal3r_eval.study.predict import AS_TRAINED, FROZEN, GCS_OFF, Condition, predict_chunks
from scal3r_eval.study.settings import (
    REFERENCE,
    StudyRecipe,
    TestTime,
    held_out_folder,
    index_sha256,
    memory_condition,
    run_folder,
    scores_file,
    training_folder,
)
from scal3r_train.config import write_text_atomically
from scal3r_train.data.index.index import load_index
from scal3r_train.geometry.camera import fov_from_intrinsics
from scal3r_train.inference.alignment.neighbours import align_neighbours
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.trajectory import score_trajectory
from scal3r_train.model.load_model import checkpoint_sha256, load_model
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.process import local_device
from scal3r_train.text_file import parse_json

STITCHING: dict[str, dict[str, Any]] = {
    "ate": {},
    "ate_sim3": {"common_scale": {"enabled": False}},
    "ate_se3": {"mode": "se3"},
}
TEST_TIME: dict[TestTime, Condition] = {"frozen": FROZEN, "gcs_off": GCS_OFF}
CHUNKS_PER_PASS = 64  # bounds the memory that a long sequence takes, not its result
Scores = dict[str, float | None]
Say = Callable[[str], None]


def score_chunks(model: Scal3RModel, sequence: HeldOutSequence, condition: Condition) -> Scores:
    """Return `motion_errors` of the sequence's chunks."""
    return _chunk_scores(predict_chunks(model, sequence.chunk_images, condition), sequence)


def score_sequence(
    model: Scal3RModel, sequence: HeldOutSequence, condition: Condition, recipe: ReconstructionRecipe
) -> Scores:
    """Return `motion_errors` and the errors of the stitched path.

    `ate_percent`, `ate_sim3_percent`, `ate_se3_percent`: ATE after Sim(3) alignment of the whole path over its true
    length, stitched by the seams of the recipe, by similarities that each have a scale of their own, and by rigid
    motions (which keep every chunk's own scale).
    """
    predictions = predict_chunks(model, sequence.chunk_images, condition)
    scores = _chunk_scores(predictions, sequence)
    layout = Layout.plan(len(sequence.images), recipe.schedule, 1)
    seams: dict[str, list[Seam]] = {}  # of each mode; a common scale is found after them
    for name, changes in STITCHING.items():
        alignment = AlignmentSettings(**recipe.alignment.model_dump() | changes)
        changed = recipe.model_copy(update={"alignment": alignment})
        if alignment.mode not in seams:
            seams[alignment.mode] = find_seams(predictions, layout, changed)
        stitched = stitch(predictions, layout, seams[alignment.mode], changed)
        scores[f"{name}_percent"] = score_trajectory(stitched, sequence.world_from_cam, "sim3").ate_percent
    return scores


def find_seams(
    predictions: list[ChunkPrediction], layout: Layout, recipe: ReconstructionRecipe
) -> list[Seam]:
    """Return the seam between every chunk and the next."""
    by_number = dict(enumerate(predictions))
    found = align_neighbours(by_number, {}, layout.ranges, recipe.alignment, recipe.points)
    return [found[number] for number in range(len(predictions) - 1)]


def stitch(
    predictions: list[ChunkPrediction], layout: Layout, seams: list[Seam], recipe: ReconstructionRecipe
) -> torch.Tensor:
    """Return world_from_cam [F, 3, 4] of all frames as `scal3r reconstruct` would place them, without loops."""
    placement = Placement.along_seams(layout, seams, predictions[0].extrinsics[0], math.nan, recipe)
    placed: list[PlacedFrames] = []
    for number, prediction in enumerate(predictions):
        later = predictions[number + 1] if number + 1 < len(predictions) else None
        placed += placement.decided_frames(number, prediction, later, recipe)
    return torch.cat([part.world_from_cam for part in placed])


def _chunk_scores(predictions: list[ChunkPrediction], sequence: HeldOutSequence) -> Scores:
    extrinsics = torch.stack([prediction.extrinsics for prediction in predictions])
    intrinsics = torch.stack([prediction.intrinsics for prediction in predictions])
    image_hw = sequence.images.shape[-2], sequence.images.shape[-1]
    fov_w = fov_from_intrinsics(intrinsics, image_hw)[..., 1]
    return motion_errors(chunk_motion(extrinsics, fov_w, sequence.unit_m), sequence.motion, sequence.views)


def score_all(recipe: StudyRecipe, reading: Reading, say: Say) -> None:
    """Score every trained model, and the guesses, on the held-out sequences; `jobs` models at a time."""
    _score_guesses(recipe, reading)
    if recipe.jobs == 1 or len(recipe.runs) == 1:
        for run in recipe.runs:
            say(_score_run(recipe, reading, *run))
        return
    with ProcessPoolExecutor(recipe.jobs, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_score_run, recipe, reading, *run) for run in recipe.runs]:
            say(job.result())


def _score_run(recipe: StudyRecipe, reading: Reading, variant: str, seed: int) -> str:
    """Score one trained model unless that is done, and return a line about it."""
    if recipe.jobs > 1:
        torch.set_num_threads(1)
    checkpoint, path = run_folder(recipe, variant, seed) / "model", scores_file(recipe, f"{variant}_{seed}")
    identity = {
        "checkpoint_sha256": checkpoint_sha256(checkpoint),
        "code_sha256": STUDY_SHA256,
        **_data_identity(recipe, reading),
    }
    if _is_done(path, identity):
        return f"{path}: complete"
    started = time.perf_counter()
    model = load_model(checkpoint, local_device())
    model.chunks_per_pass = CHUNKS_PER_PASS
    reconstruction = ReconstructionRecipe(schedule=reading.schedule, alignment=recipe.alignment)
    longest = recipe.lengths[-1]
    conditions: dict[str, dict[str, Scores]] = {}
    for chunks in recipe.lengths:
        for sequence in load_sequences(held_out_folder(recipe, chunks), reading):
            for name, condition in _conditions(recipe, variant).items():
                scores = score_sequence(model, sequence, condition, reconstruction)
                conditions.setdefault(name, {})[sequence.name] = scores
            if chunks == longest and variant == REFERENCE and recipe.is_swept(sequence.name):
                for size in recipe.chunks_in_memory:
                    scores = score_chunks(model, sequence, Condition(chunks_in_memory=size))
                    conditions.setdefault(memory_condition(size), {})[sequence.name] = scores
    seconds = time.perf_counter() - started
    _write_scores(path, identity, conditions, seconds)
    return f"{path}: scored, {seconds:.0f} s"


def _conditions(recipe: StudyRecipe, variant: str) -> dict[str, Condition]:
    others = recipe.at_test_time if variant == REFERENCE else ()
    return {"as_trained": AS_TRAINED} | {name: TEST_TIME[name] for name in others}


def _score_guesses(recipe: StudyRecipe, reading: Reading) -> None:
    """Score what needs no network."""
    path = scores_file(recipe, "guesses")
    identity = {"code_sha256": STUDY_SHA256, **_data_identity(recipe, reading)}
    if _is_done(path, identity):
        return
    started = time.perf_counter()
    training = _training_motion(recipe, reading)
    conditions: dict[str, dict[str, Scores]] = {"prior": {}, "copy": {}}
    for chunks in recipe.lengths:
        for sequence in load_sequences(held_out_folder(recipe, chunks), reading):
            for name, scores in _guessed(sequence, training).items():
                conditions[name][sequence.name] = scores
    _write_scores(path, identity, conditions, time.perf_counter() - started)


def _guessed(sequence: HeldOutSequence, training: ChunkMotion) -> dict[str, Scores]:
    guesses = {
        "prior": prior_motion(training, len(sequence.views), sequence.unit_m),
        "copy": copied_motion(sequence.motion, sequence.views),
    }
    found = {}
    for name, guess in guesses.items():
        scores = motion_errors(guess or sequence.motion, sequence.motion, sequence.views)
        known = {
            key: value for key, value in scores.items() if key.startswith("hidden_") and guess is not None
        }
        found[name] = {key: known.get(key) for key in scores}
    return found


def _training_motion(recipe: StudyRecipe, reading: Reading) -> ChunkMotion:
    """Return the true motion of all whole chunks of the training sequences, in the units that training asks for."""
    index = load_index(training_folder(recipe) / "index.parquet")
    records = [index[row] for row in range(len(index))]
    size = reading.schedule.chunk_size
    parts = [load_motion(record, reading) for record in records if record.num_frames >= size]
    return ChunkMotion(
        yaw_deg=np.concatenate([part.yaw_deg for part in parts]),
        shift=np.concatenate([part.shift for part in parts]),
        length=np.concatenate([part.length for part in parts]),
        fov_deg=np.concatenate([part.fov_deg for part in parts]),
    )


def _is_done(path: Path, identity: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    before = parse_json(path.read_text(encoding="utf-8"))
    return all(before.get(key) == value for key, value in identity.items())


def _write_scores(
    path: Path, identity: dict[str, Any], conditions: dict[str, dict[str, Scores]], seconds: float
) -> None:
    document = {**identity, "seconds": round(seconds, 1), "conditions": conditions}
    write_text_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _data_identity(recipe: StudyRecipe, reading: Reading) -> dict[str, Any]:
    """Return what scores depend on beside checkpoint and code: settings, and the sequences that were made by them."""
    folders = [training_folder(recipe), *(held_out_folder(recipe, chunks) for chunks in recipe.lengths)]
    return {
        "study": _scored_settings(recipe),
        "reading": reading.as_dict(),
        "indexes": {folder.name: index_sha256(folder) for folder in folders},
    }


def _scored_settings(recipe: StudyRecipe) -> dict[str, Any]:
    """Return the settings that scores depend on, beside the checkpoint."""
    wanted = {
        "towns",
        "drives",
        "held_out_seed",
        "held_out",
        "at_test_time",
        "chunks_in_memory",
        "alignment",
    }
    return json.loads(recipe.model_dump_json(include=wanted))
