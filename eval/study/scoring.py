"""Scores of all trained models of a study on all held-out towns; a model that has been scored is not scored again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scal3r_eval.code_identity import STUDY_SHA256
from scal3r_eval.study.chunk_errors import ChunkMotion, motion_errors
from scal3r_eval.study.files import held_out_folder, memory_condition, run_folder, scores_file, towns_folder
from scal3r_eval.study.guesses import copied_motion, prior_motion
from scal3r_eval.study.predict import AS_TRAINED, FROZEN, GCS_OFF, Condition
from scal3r_eval.study.score import Scores, score_chunks, score_town
from scal3r_eval.study.settings import REFERENCE, StudyRecipe
from scal3r_eval.study.towns import HeldOutTown, load_towns
from scal3r_train.config import write_text_atomically
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.inference.load_model import checkpoint_sha256, load_model
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.process import local_device

Say = Callable[[str], None]


def score_all(recipe: StudyRecipe, chunking: ScheduleSettings, say: Say) -> None:
    """Score every trained model, and the guesses, on the held-out towns; `jobs` models at a time."""
    _score_guesses(recipe, chunking)
    wanted = [(variant, seed) for seed in recipe.seeds for variant in recipe.variants]
    if recipe.jobs == 1 or len(wanted) == 1:
        for run in wanted:
            say(_score_run(recipe, chunking, *run))
        return
    with ProcessPoolExecutor(recipe.jobs, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_score_run, recipe, chunking, *run) for run in wanted]:
            say(job.result())


def _score_run(recipe: StudyRecipe, chunking: ScheduleSettings, variant: str, seed: int) -> str:
    """Score one trained model unless that is done, and return a line about it."""
    if recipe.jobs > 1:
        torch.set_num_threads(1)
    checkpoint, path = run_folder(recipe, variant, seed) / "model", scores_file(recipe, f"{variant}_{seed}")
    identity = {
        "checkpoint_sha256": checkpoint_sha256(checkpoint),
        "code_sha256": STUDY_SHA256,
        "study": _scored_settings(recipe),
    }
    if _is_done(path, identity):
        return f"{path}: complete"
    started = time.perf_counter()
    model = load_model(checkpoint, local_device())
    reconstruction = ReconstructionRecipe(schedule=chunking, alignment=recipe.alignment)
    longest = recipe.lengths[-1]
    conditions: dict[str, dict[str, Scores]] = {}
    for chunks in recipe.lengths:
        towns = list(load_towns(held_out_folder(recipe, chunks), chunking))
        for name, condition in _conditions(variant).items():
            scores = {town.name: score_town(model, town, condition, reconstruction) for town in towns}
            conditions.setdefault(name, {}).update(scores)
        if chunks == longest and variant == REFERENCE:
            for size in recipe.chunks_in_memory:
                condition = Condition(chunks_in_memory=size)
                found = {town.name: score_chunks(model, town, condition) for town in towns}
                conditions[memory_condition(size)] = found
    seconds = time.perf_counter() - started
    _write_scores(path, identity, conditions, seconds)
    return f"{path}: scored, {seconds:.0f} s"


def _conditions(variant: str) -> dict[str, Condition]:
    if variant != REFERENCE:
        return {"as_trained": AS_TRAINED}
    return {"as_trained": AS_TRAINED, "frozen": FROZEN, "gcs_off": GCS_OFF}


def _score_guesses(recipe: StudyRecipe, chunking: ScheduleSettings) -> None:
    """Score what needs no network."""
    path = scores_file(recipe, "guesses")
    identity = {"code_sha256": STUDY_SHA256, "study": _scored_settings(recipe)}
    if _is_done(path, identity):
        return
    started = time.perf_counter()
    training = _training_motion(recipe, chunking)
    conditions: dict[str, dict[str, Scores]] = {"prior": {}, "copy": {}}
    for chunks in recipe.lengths:
        for town in load_towns(held_out_folder(recipe, chunks), chunking):
            for name, scores in _guessed(town, training).items():
                conditions[name][town.name] = scores
    _write_scores(path, identity, conditions, time.perf_counter() - started)


def _guessed(town: HeldOutTown, training: ChunkMotion) -> dict[str, Scores]:
    guesses = {
        "prior": prior_motion(training, len(town.views), town.unit_m),
        "copy": copied_motion(town.motion, town.views),
    }
    found = {}
    for name, guess in guesses.items():
        scores = motion_errors(guess or town.motion, town.motion, town.views)
        known = {
            key: value for key, value in scores.items() if key.startswith("hidden_") and guess is not None
        }
        found[name] = {key: known.get(key) for key in scores}
    return found


def _training_motion(recipe: StudyRecipe, chunking: ScheduleSettings) -> ChunkMotion:
    """Return the true motion of all chunks of the training towns, each in units of its own town."""
    towns = load_towns(towns_folder(recipe), chunking)
    parts = [town.motion.scaled(1 / town.unit_m) for town in towns]
    return ChunkMotion(
        yaw_deg=np.concatenate([part.yaw_deg for part in parts]),
        shift=np.concatenate([part.shift for part in parts]),
        length=np.concatenate([part.length for part in parts]),
        fov_deg=np.concatenate([part.fov_deg for part in parts]),
    )


def _is_done(path: Path, identity: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    before = json.loads(path.read_text(encoding="utf-8"))
    return all(before.get(key) == value for key, value in identity.items())


def _write_scores(
    path: Path, identity: dict[str, Any], conditions: dict[str, dict[str, Scores]], seconds: float
) -> None:
    document = {**identity, "seconds": round(seconds, 1), "conditions": conditions}
    write_text_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _scored_settings(recipe: StudyRecipe) -> dict[str, Any]:
    """Return the settings that scores depend on, beside the checkpoint."""
    wanted = {"towns", "held_out_seed", "held_out", "chunks_in_memory", "alignment"}
    return json.loads(recipe.model_dump_json(include=wanted))
