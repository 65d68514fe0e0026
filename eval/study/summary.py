"""From scores to the numbers of a study and their tables, results.md: means, paired differences, errors by length.

A method is a variant as it was trained ("no_gcs"), the reference under another condition ("full, frozen"), or a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scal3r_eval.bootstrap import BootstrapSettings, Interval, mean_interval, paired_difference
from scal3r_eval.study.settings import REFERENCE, StudyRecipe, memory_condition, scores_file
from scal3r_train.text_file import parse_json

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
    "ate_sim3_percent": "ATE, free Sim(3) seams, % of path",
    "ate_se3_percent": "ATE, SE(3) seams, % of path",
}
METRICS = tuple(TITLES)
GUESSES = ("prior", "copy")
FROZEN_METHOD, GCS_OFF_METHOD = f"{REFERENCE}, frozen", f"{REFERENCE}, gcs_off"

Table = dict[str, dict[str, Any]]
Scored = list[dict[str, dict[str, float | None]]]  # one entry a seed: scores by sequence
HIDDEN = ("hidden_yaw_deg", "hidden_length_percent", "hidden_shift_percent", "hidden_fov_deg")
CLEAR = ("clear_yaw_deg", "clear_shift_percent", "scale_spread_percent")
PATHS = ("ate_percent", "ate_sim3_percent", "ate_se3_percent")
SWEPT = (*HIDDEN[:3], "clear_yaw_deg", "clear_shift_percent")
BY_LENGTH = ("hidden_yaw_deg", "hidden_shift_percent", *PATHS)


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
    return parse_json(scores_file(recipe, name).read_text(encoding="utf-8"))["conditions"]


def _town_prefix(recipe: StudyRecipe, chunks: int) -> str:
    """Return how the names of the held-out towns of so many chunks begin (`scal3r data synth` names them)."""
    return f"town_{recipe.held_out_seed + chunks:03d}_"


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def results_page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    numbers = results["results"]
    level = round(100 * results["recipe"]["bootstrap"]["level"])
    blocks = [
        "# Memory study",
        f"{numbers['num_sequences']} held-out towns, seeds {', '.join(map(str, numbers['seeds']))}, "
        f"{results['recipe']['num_steps']} steps. Mean [{level} % interval over seeds and sequences]. "
        "docs/study.md says what the columns are.",
        _run_line(results),
        "## Chunks that show nothing",
        means_table(numbers["means"], HIDDEN, "method"),
        "## Chunks that show everything, and the whole path",
        means_table(numbers["means"], CLEAR, "method"),
        means_table(numbers["means"], PATHS, "method"),
        f"## Differences from {REFERENCE}, paired (above 0: worse than {REFERENCE}; bold: 0 is outside the interval)",
        means_table(numbers["differences"], HIDDEN, "method", marks=True),
        means_table(numbers["differences"], CLEAR, "method", marks=True),
        means_table(numbers["differences"], PATHS, "method", marks=True),
        "## By length of the sequence",
        *(
            f"{chunks} chunks\n\n{means_table(table, BY_LENGTH, 'method')}"
            for chunks, table in numbers["by_length"].items()
        ),
        f"## Longest sequences, {REFERENCE}, by chunks that share a memory",
        means_table(numbers["by_memory"], SWEPT, "chunks in memory"),
    ]
    return "\n\n".join(blocks) + "\n"


def means_table(
    table: Mapping[str, Mapping[str, Mapping[str, float] | None]],
    metrics: Sequence[str],
    first: str,
    *,
    marks: bool = False,
) -> str:
    """Return a Markdown table of intervals; `marks` sets those in bold that exclude zero. Empty rows are left out."""
    header = f"| {first} | " + " | ".join(TITLES[metric] for metric in metrics) + " |"
    rule = "| --- |" + " ---: |" * len(metrics)
    rows = [
        f"| {name} | " + " | ".join(_cell(row[metric], marks=marks) for metric in metrics) + " |"
        for name, row in table.items()
        if any(row[metric] is not None for metric in metrics)
    ]
    return "\n".join([header, rule, *rows])


def _cell(interval: Mapping[str, float] | None, *, marks: bool) -> str:
    if interval is None:
        return ""
    text = f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"**{text}**" if marks and (interval["low"] > 0 or interval["high"] < 0) else text


def _run_line(results: Mapping[str, Any]) -> str:
    seconds, hardware = results["seconds"], results["hardware"]
    return (
        f"{hardware['device']}, {results['recipe']['jobs']} jobs side by side; trainings {seconds['training']:.0f} s, "
        f"scoring {seconds['scoring']:.0f} s, all jobs added up; code {results['code_version']}."
    )
