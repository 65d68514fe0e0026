"""Run a study: `python -m scal3r_eval.study RECIPE [key=value ...]` makes sequences, trains, scores, writes tables."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scal3r_eval.code_identity import CODE_VERSION
from scal3r_eval.study.prepare import check_runs, make_sequences, study_reading, train_all
from scal3r_eval.study.scoring import score_all
from scal3r_eval.study.settings import (
    COMPLETE,
    StudyRecipe,
    load_study,
    results_name,
    run_folder,
    scores_file,
)
from scal3r_eval.study.summary import results_page, summarize
from scal3r_train.config import UserError, run_command, write_text_atomically
from scal3r_train.notes import answer, new_console
from scal3r_train.parallel.folder_lock import lock_inside, owned
from scal3r_train.text_file import parse_json

FORMAT_VERSION = 1


def main(argv: Sequence[str]) -> int:
    """Run the study; stages that are complete are not repeated. Returns 0.

    Raises:
        UserError: for whatever the user can fix.
    """
    if not argv or argv[0] in ("-h", "--help"):
        raise UserError(
            "usage: python -m scal3r_eval.study RECIPE [key=value ...], "
            "such as recipes/study/memory.yaml (docs/study.md)"
        )
    recipe = load_study(Path(argv[0]), list(argv[1:]))
    with owned(lock_inside(recipe.output_dir), f"output_dir {recipe.output_dir}"):
        _run(recipe)
    return 0


def _run(recipe: StudyRecipe) -> None:
    reading = study_reading(recipe)
    check_runs(recipe)
    console = new_console(stderr=True)
    for title, stage in (
        ("1/4 sequences", lambda: make_sequences(recipe, reading, console.print)),
        ("2/4 training", lambda: train_all(recipe, console.print)),
        ("3/4 scoring", lambda: score_all(recipe, reading, console.print)),
    ):
        console.rule(title)
        stage()
    console.rule("4/4 results")
    for kind in recipe.kinds:
        results = {
            "format_version": FORMAT_VERSION,
            "code_version": CODE_VERSION,
            "hardware": _hardware(),
            "seconds": _seconds(recipe),
            "recipe": recipe.model_dump(mode="json"),
            "results": summarize(recipe, kind),
        }
        page, name = results_page(results), results_name(recipe, kind)
        write_text_atomically(recipe.output_dir / f"{name}.json", json.dumps(results, indent=1) + "\n")
        write_text_atomically(recipe.output_dir / f"{name}.md", page)
        answer(*page.splitlines())


def _hardware() -> dict[str, Any]:
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {"device": device, "torch": torch.__version__}


def _seconds(recipe: StudyRecipe) -> dict[str, float]:
    """Return how long the jobs took, added up, whenever they ran; of a resumed training the last start counts alone."""
    trained = [run_folder(recipe, *run) / COMPLETE for run in recipe.runs]
    scored = [scores_file(recipe, f"{variant}_{seed}") for variant, seed in recipe.runs]
    return {
        name: sum(parse_json(path.read_text(encoding="utf-8"))["seconds"] for path in paths if path.is_file())
        for name, paths in (("training", trained), ("scoring", scored))
    }


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
