"""Where a study keeps what."""

from __future__ import annotations

from pathlib import Path

from scal3r_eval.study.settings import StudyRecipe


def towns_folder(recipe: StudyRecipe) -> Path:
    """Return where the training towns are."""
    return recipe.output_dir / "towns"


def held_out_folder(recipe: StudyRecipe, chunks: int) -> Path:
    """Return where the held-out towns of so many chunks are."""
    return recipe.output_dir / f"held_out_{chunks:03d}"


def run_folder(recipe: StudyRecipe, variant: str, seed: int) -> Path:
    """Return the folder of one training."""
    return recipe.output_dir / "runs" / f"{variant}_{seed}"


def scores_file(recipe: StudyRecipe, name: str) -> Path:
    """Return where the scores of a trained model, or of the guesses, are."""
    return recipe.output_dir / "scores" / f"{name}.json"


def memory_condition(chunks: int) -> str:
    """Return the name of the condition in which so many chunks share a memory."""
    return f"memory_{chunks}"
