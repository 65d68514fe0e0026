"""Sequences and trainings of a study, by the commands that a user has. What is complete is not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from scal3r_eval.study.drives import DriveSettings, make_held_out, make_training
from scal3r_eval.study.held_out import Reading, reading_of
from scal3r_eval.study.settings import (
    COMPLETE,
    REFERENCE,
    StudyRecipe,
    frames_of,
    held_out_folder,
    index_sha256,
    run_folder,
    training_folder,
)
from scal3r_eval.subprocesses import run_logged, run_shown
from scal3r_train.config import UserError, load_config, write_text_atomically
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.recipe import load_training_recipe
from scal3r_train.text_file import parse_json

Say = Callable[[str], None]
TOWNS_FILE = (
    "towns.yaml"  # in which `scal3r data synth` notes the settings; a folder is complete when it exists
)


def make_sequences(recipe: StudyRecipe, reading: Reading, say: Say) -> None:
    """Write the training sequences and all held-out ones."""
    if recipe.towns is not None:
        _make_towns(recipe, recipe.towns, reading.schedule, say)
    if recipe.drives is not None:
        _make_drives(recipe, recipe.drives, reading.schedule, say)


def _make_drives(recipe: StudyRecipe, drives: DriveSettings, schedule: ScheduleSettings, say: Say) -> None:
    folder = training_folder(recipe)
    say(f"{folder}: {make_training(drives, folder)} drives")
    for chunks in recipe.lengths:
        folder, num_frames = (
            held_out_folder(recipe, chunks),
            frames_of(chunks, schedule.chunk_size, schedule.overlap),
        )
        windows = make_held_out(drives, folder, chunks, num_frames, recipe.sequences_of(chunks))
        say(f"{folder}: {windows} windows of {num_frames} frames, clear, with fog and in black")


def _make_towns(recipe: StudyRecipe, towns: TownSettings, schedule: ScheduleSettings, say: Say) -> None:
    wanted = {training_folder(recipe): towns}
    for chunks in recipe.lengths:
        settings = recipe.held_out_towns(chunks, schedule.chunk_size, schedule.overlap)
        wanted[held_out_folder(recipe, chunks)] = settings
    for folder, settings in wanted.items():
        made_with = folder / TOWNS_FILE
        if made_with.is_file() and load_config(TownSettings, made_with) == settings:
            continue
        say(f"{folder}: {settings.num_sequences} towns of {settings.num_frames} frames")
        arguments = [*_overrides(settings), f"num_workers={recipe.jobs}"]
        run_shown("scal3r_train.cli", "data", "synth", str(folder), *arguments, one_thread=True)


def check_runs(recipe: StudyRecipe) -> None:
    """Raise UserError when a training cannot be, or when its folder holds one with other settings."""
    for run in recipe.runs:
        path, *overrides = _training_arguments(recipe, *run)
        wanted, folder = load_training_recipe(path, overrides), run_folder(recipe, *run)
        before = folder / "recipe.yaml"  # of an older version it lacks keys, which had their defaults
        if before.is_file() and load_training_recipe(before) != wanted:
            raise UserError(
                f"{folder} was trained with other settings; remove it, or name another output_dir"
            )


def _check_data(recipe: StudyRecipe) -> None:
    """Raise UserError when a complete training saw other sequences than those that are there now."""
    here = index_sha256(training_folder(recipe))
    for run in recipe.runs:
        folder = run_folder(recipe, *run)
        if not (folder / COMPLETE).is_file():
            continue
        trained_on = parse_json((folder / COMPLETE).read_text(encoding="utf-8")).get("index_sha256")
        if trained_on not in (None, here):
            raise UserError(f"{folder} was trained on other sequences; remove it, or name another output_dir")


def train_all(recipe: StudyRecipe, say: Say) -> None:
    """Train every variant with every seed, `jobs` at a time.

    Raises:
        UserError: a training that is complete saw other sequences.
    """
    _check_data(recipe)

    def train(run: tuple[str, int]) -> None:
        folder = run_folder(recipe, *run)
        if (folder / "model").is_dir():
            return
        started = time.perf_counter()
        run_logged(folder.with_suffix(".log"), "scal3r_train.train", *_training_arguments(recipe, *run))
        seconds = time.perf_counter() - started
        done = {"seconds": round(seconds, 1), "index_sha256": index_sha256(training_folder(recipe))}
        write_text_atomically(folder / COMPLETE, json.dumps(done) + "\n")
        say(f"{folder}: trained, {seconds:.0f} s")

    with ThreadPoolExecutor(recipe.jobs) as pool:
        list(pool.map(train, recipe.runs))


def _training_arguments(recipe: StudyRecipe, variant: str, seed: int) -> list[str]:
    """Return recipe and overrides of one training."""
    return [
        str(recipe.variants[variant]),
        f"seed={seed}",
        f"name=study_{variant}_{seed}",
        f"output_dir={run_folder(recipe, variant, seed)}",
        f"data.sources.0.index={training_folder(recipe) / 'index.parquet'}",
        f"optim.num_steps={recipe.num_steps}",
    ]


def _overrides(settings: TownSettings) -> Sequence[str]:
    values = settings.model_dump(mode="json")
    return [f"{name}={'null' if value is None else value}" for name, value in values.items()]


def study_reading(recipe: StudyRecipe) -> Reading:
    """Return how all variants read sequences; UserError when they differ."""
    found = {name: reading_of(load_training_recipe(path)) for name, path in recipe.variants.items()}
    reference = found[REFERENCE]
    for name, reading in found.items():
        if reading != reference:
            raise UserError(
                f"{recipe.variants[name]} has other chunks, images or units than {recipe.variants[REFERENCE]}"
            )
    return reference
