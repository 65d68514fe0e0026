"""From scores to the numbers of a study: means, paired differences, errors by length and by chunks in memory.

A method is a variant as it was trained ("no_gcs"), the reference under another condition ("full, frozen"), or a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scal3r_eval.bootstrap import BootstrapSettings, Interval, mean_interval, paired_difference
from scal3r_eval.study.files import memory_condition, scores_file
from scal3r_eval.study.settings import REFERENCE, StudyRecipe

TITLES = {
    "hidden_yaw_deg": "hidden: yaw, deg",
    "hidden_length_percent": "hidden: length, %",
    "hidden_shift_percent": "hidden: shift, %",
    "hidden_fov_deg": "hidden: fov, deg",
    "clear_yaw_deg": "clear: yaw, deg",
    "clear_length_percent": "clear: length, %",
    "clear_shift_percent": "clear: shift, %",
    "clear_fov_deg": "clear: fov, deg",
    "scale_spread_percent": "clear: scale spread, %",
    "ate_percent": "ATE, % of path",
    "ate_se3_percent": "ATE, SE(3) seams, % of path",
}
METRICS = tuple(TITLES)
GUESSES = ("prior", "copy")
FROZEN_METHOD, GCS_OFF_METHOD = f"{REFERENCE}, frozen", f"{REFERENCE}, gcs_off"

Table = dict[str, dict[str, Any]]
Scored = list[dict[str, dict[str, float | None]]]  # one entry a seed: scores by sequence


def summarize(recipe: StudyRecipe) -> dict[str, Any]:
    """Return means, differences from the reference, errors by number of chunks and by chunks in memory."""
    methods = read_methods(recipe)
    draw = recipe.bootstrap
    names = sorted(methods[REFERENCE][0])
    by_length = {
        chunks: [name for name in names if name.startswith(_town_prefix(recipe, chunks))]
        for chunks in recipe.lengths
    }
    assert sum(map(len, by_length.values())) == len(names)
    return {
        "num_sequences": len(names),
        "seeds": list(recipe.seeds),
        "means": means(methods, names, draw),
        "differences": differences(methods, names, draw),
        "by_length": {str(chunks): means(methods, part, draw) for chunks, part in by_length.items()},
        "by_length_differences": {
            str(chunks): differences(methods, part, draw) for chunks, part in by_length.items()
        },
        "by_memory": _by_memory(recipe, by_length[recipe.lengths[-1]]),
    }


def read_methods(recipe: StudyRecipe) -> dict[str, Scored]:
    """Return the scores of all methods, in the order of a table."""
    guesses = _read(recipe, "guesses")
    methods: dict[str, Scored] = {name: [guesses[name]] for name in GUESSES}
    for variant in recipe.variants:
        methods[variant] = _seeds(recipe, variant, "as_trained")
    methods[FROZEN_METHOD] = _seeds(recipe, REFERENCE, "frozen")
    methods[GCS_OFF_METHOD] = _seeds(recipe, REFERENCE, "gcs_off")
    return methods


def means(methods: Mapping[str, Scored], names: Sequence[str], draw: BootstrapSettings) -> Table:
    """Return method -> metric -> interval of the mean over seeds and the named sequences."""
    return {
        method: {metric: _plain(mean_interval(values(scored, names, metric), draw)) for metric in METRICS}
        for method, scored in methods.items()
    }


def differences(methods: Mapping[str, Scored], names: Sequence[str], draw: BootstrapSettings) -> Table:
    """Return method -> metric -> interval of the mean of method - reference, paired by seed and sequence."""
    found: Table = {}
    for method, scored in methods.items():
        if method == REFERENCE:
            continue
        found[method] = {}
        for metric in METRICS:
            reference = values(methods[REFERENCE], names, metric)
            other = np.broadcast_to(values(scored, names, metric), reference.shape)
            found[method][metric] = _plain(paired_difference(other, reference, draw))
    return found


def values(scored: Scored, names: Sequence[str], metric: str) -> np.ndarray:
    """Return [R, N] float64 of one metric, NaN where a sequence has no value or the method no such metric."""
    rows = [[scores[name].get(metric) for name in names] for scores in scored]
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def _by_memory(recipe: StudyRecipe, names: Sequence[str]) -> Table:
    methods = {
        str(size): _seeds(recipe, REFERENCE, memory_condition(size))
        for size in sorted(recipe.chunks_in_memory)
    }
    return means(methods, names, recipe.bootstrap)


def _seeds(recipe: StudyRecipe, variant: str, condition: str) -> Scored:
    return [_read(recipe, f"{variant}_{seed}")[condition] for seed in recipe.seeds]


def _read(recipe: StudyRecipe, name: str) -> dict[str, Any]:
    return json.loads(scores_file(recipe, name).read_text(encoding="utf-8"))["conditions"]


def _town_prefix(recipe: StudyRecipe, chunks: int) -> str:
    """Return how the names of the held-out towns of so many chunks begin (`scal3r data synth` names them)."""
    return f"town_{recipe.held_out_seed + chunks:03d}_"


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)
