"""Towns and trainings of a study, by the commands that a user has. What is complete is not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from scal3r_eval.study.settings import REFERENCE, StudyRecipe, held_out_folder, run_folder, towns_folder
from scal3r_eval.study.towns import chunking_of
from scal3r_eval.subprocesses import run_logged, run_shown
from scal3r_train.config import UserError, dump_yaml, load_config, write_text_atomically
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.recipe import load_training_recipe

Say = Callable[[str], None]
TOWNS_FILE = (
    "towns.yaml"  # in which `scal3r data synth` notes the settings; a folder is complete when it exists
)


def make_towns(recipe: StudyRecipe, chunking: ScheduleSettings, say: Say) -> None:
    """Write the training towns and all held-out towns."""
    wanted = {towns_folder(recipe): recipe.towns}
    for chunks in recipe.lengths:
        settings = recipe.held_out_towns(chunks, chunking.chunk_size, chunking.overlap)
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
    for variant in recipe.variants:
        for seed in recipe.seeds:
            path, *overrides = _training_arguments(recipe, variant, seed)
            resolved = dump_yaml(load_training_recipe(path, overrides))
            folder = run_folder(recipe, variant, seed)
            before = folder / "recipe.yaml"
            if before.is_file() and before.read_text(encoding="utf-8") != resolved:
                raise UserError(
                    f"{folder} was trained with other settings; remove it, or name another output_dir"
                )


def train_all(recipe: StudyRecipe, say: Say) -> None:
    """Train every variant with every seed, `jobs` at a time."""
    wanted = [(variant, seed) for seed in recipe.seeds for variant in recipe.variants]

    def train(run: tuple[str, int]) -> None:
        folder = run_folder(recipe, *run)
        if (folder / "model").is_dir():
            return
        started = time.perf_counter()
        run_logged(folder.with_suffix(".log"), "scal3r_train.train", *_training_arguments(recipe, *run))
        seconds = time.perf_counter() - started
        write_text_atomically(folder / "seconds.json", json.dumps({"seconds": round(seconds, 1)}) + "\n")
        say(f"{folder}: trained, {seconds:.0f} s")

    with ThreadPoolExecutor(recipe.jobs) as pool:
        list(pool.map(train, wanted))


def _training_arguments(recipe: StudyRecipe, variant: str, seed: int) -> list[str]:
    """Return recipe and overrides of one training."""
    return [
        str(recipe.variants[variant]),
        f"seed={seed}",
        f"name=study_{variant}_{seed}",
        f"output_dir={run_folder(recipe, variant, seed)}",
        f"data.sources.0.index={towns_folder(recipe) / 'index.parquet'}",
        f"optim.num_steps={recipe.num_steps}",
    ]


def _overrides(settings: TownSettings) -> Sequence[str]:
    values = settings.model_dump(mode="json")
    return [f"{name}={'null' if value is None else value}" for name, value in values.items()]


def study_chunking(recipe: StudyRecipe) -> ScheduleSettings:
    """Return how all variants cut sequences; UserError when they differ."""
    found = {name: chunking_of(load_training_recipe(path)) for name, path in recipe.variants.items()}
    reference = found[REFERENCE]
    for name, chunking in found.items():
        if chunking != reference:
            raise UserError(f"{recipe.variants[name]} cuts other chunks than {recipe.variants[REFERENCE]}")
    return reference
