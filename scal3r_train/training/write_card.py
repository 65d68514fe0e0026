"""Writes the model card and the resolved recipe beside exported weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scal3r_train.config import write_text_atomically
from scal3r_train.model.checkpoint_files import folder_sha256
from scal3r_train.training.model_card import CardFacts, model_card

RECIPE_NAME = "recipe.yaml"


def write_card(folder: Path, step: int, facts: CardFacts, run_folder: Path, recipe_yaml: str) -> None:
    """Write README.md and recipe.yaml into a folder that holds the weights after `step` steps; one rank calls this.

    Hash, step and validations, from the run's metrics.jsonl, are added to the facts.
    """
    first, last = validations(run_folder / "metrics.jsonl")
    facts = replace(
        facts,
        step=step,
        first_metrics=first,
        last_metrics={key: value for key, value in last.items() if key != "step"},
        last_metrics_step=int(last.get("step", 0)),
        recipe_file=RECIPE_NAME,
        checkpoint_sha256=folder_sha256(folder),
    )
    write_text_atomically(folder / RECIPE_NAME, recipe_yaml)
    write_text_atomically(folder / "README.md", model_card(facts))


def validations(metrics: Path) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return what metrics.jsonl says of the validation before step 0 and of the last one, without what is null."""
    if not metrics.is_file():
        return {}, {}
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    known = [
        {key: value for key, value in line.items() if value is not None}
        for line in lines
        if any(key.startswith("val/") for key in line)
    ]
    if not known:
        return {}, {}
    return (known[0] if known[0]["step"] == 0 else {}), known[-1]
