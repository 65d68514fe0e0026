"""From scores to the numbers of a study and their tables, results.md: means, paired differences, errors by length.

A method is a variant as it was trained ("no_gcs"), the reference under another condition ("full, frozen"), or a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

Table = dict[str, dict[str, Any]]
Scored = list[dict[str, dict[str, float | None]]]  # one entry a seed: scores by sequence
HIDDEN = ("hidden_yaw_deg", "hidden_length_percent", "hidden_shift_percent", "hidden_fov_deg")
CLEAR = ("clear_yaw_deg", "clear_shift_percent", "scale_spread_percent")
PATHS = ("ate_percent", "ate_sim3_percent", "ate_se3_percent")
SWEPT = (*HIDDEN[:3], "clear_yaw_deg", "clear_shift_percent")
BY_LENGTH = ("hidden_yaw_deg", "hidden_shift_percent", *PATHS)


def summarize(recipe: StudyRecipe, kind: str | None = None) -> dict[str, Any]:
    """Return means, differences from the reference, errors by number of chunks and by chunks in memory.

    kind: of the sequences, one of `recipe.kinds`.
    """
    methods = read_methods(recipe)
    names = sorted(name for name in methods[REFERENCE][0] if recipe.kind_of(name) == kind)
    by_length = {
        chunks: Sample(recipe, [name for name in names if name.startswith(recipe.length_prefix(chunks))])
        for chunks in recipe.lengths
    }
    assert sum(len(part.names) for part in by_length.values()) == len(names)
    together = Sample(recipe, names)
    longest = by_length[recipe.lengths[-1]]
    return {
        "kind": kind,
        "num_sequences": len(names),
        "num_groups": len(set(together.groups)),
        "seeds": list(recipe.seeds),
        "means": means(methods, together),
        "differences": differences(methods, together),
        "by_length": {str(chunks): means(methods, part) for chunks, part in by_length.items()},
        "by_length_differences": {
            str(chunks): differences(methods, part) for chunks, part in by_length.items()
        },
        "by_memory": _by_memory(recipe, longest) if all(map(recipe.is_swept, longest.names)) else {},
    }


@dataclass(frozen=True)
class Sample:
    """Sequences that are averaged over."""

    recipe: StudyRecipe
    names: Sequence[str]

    @property
    def draw(self) -> BootstrapSettings:
        """How intervals are drawn."""
        return self.recipe.bootstrap

    @property
    def groups(self) -> list[str]:
        """What each sequence is drawn together with."""
        return [self.recipe.group_of(name) for name in self.names]


def read_methods(recipe: StudyRecipe) -> dict[str, Scored]:
    """Return the scores of all methods, in the order of a table."""
    guesses = _read(recipe, "guesses")
    methods: dict[str, Scored] = {name: [guesses[name]] for name in GUESSES}
    for variant in recipe.variants:
        methods[variant] = _seeds(recipe, variant, "as_trained")
    for condition in recipe.at_test_time:
        methods[f"{REFERENCE}, {condition}"] = _seeds(recipe, REFERENCE, condition)
    return methods


def means(methods: Mapping[str, Scored], sample: Sample) -> Table:
    """Return method -> metric -> interval of the mean over seeds and the sample's sequences."""
    return {
        method: {
            metric: _plain(mean_interval(values(scored, sample.names, metric), sample.draw, sample.groups))
            for metric in METRICS
        }
        for method, scored in methods.items()
    }


def differences(methods: Mapping[str, Scored], sample: Sample) -> Table:
    """Return method -> metric -> interval of the mean of method - reference, paired by seed and sequence."""
    found: Table = {}
    for method, scored in methods.items():
        if method == REFERENCE:
            continue
        found[method] = {}
        for metric in METRICS:
            reference = values(methods[REFERENCE], sample.names, metric)
            other = np.broadcast_to(values(scored, sample.names, metric), reference.shape)
            found[method][metric] = _plain(paired_difference(other, reference, sample.draw, sample.groups))
    return found


def values(scored: Scored, names: Sequence[str], metric: str) -> np.ndarray:
    """Return [R, N] float64 of one metric, NaN where a sequence has no value or the method no such metric."""
    rows = [[scores[name].get(metric) for name in names] for scores in scored]
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def _by_memory(recipe: StudyRecipe, sample: Sample) -> Table:
    methods = {
        str(size): _seeds(recipe, REFERENCE, memory_condition(size))
        for size in sorted(recipe.chunks_in_memory)
    }
    return means(methods, sample)


def _seeds(recipe: StudyRecipe, variant: str, condition: str) -> Scored:
    return [_read(recipe, f"{variant}_{seed}")[condition] for seed in recipe.seeds]


def _read(recipe: StudyRecipe, name: str) -> dict[str, Any]:
    return parse_json(scores_file(recipe, name).read_text(encoding="utf-8"))["conditions"]


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def results_page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    numbers = results["results"]
    level = round(100 * results["recipe"]["bootstrap"]["level"])
    what, drawn = "held-out towns", "sequences"
    if numbers["kind"] is not None:
        what = f"windows of {numbers['num_groups']} held-out drives, hidden pictures: {numbers['kind']}"
        drawn = "drives"
    blocks = [
        "# Memory study",
        f"{numbers['num_sequences']} {what}, seeds {', '.join(map(str, numbers['seeds']))}, "
        f"{results['recipe']['num_steps']} steps. Mean [{level} % interval over seeds and {drawn}]. "
        "docs/study.md says what the columns are.",
        _run_line(results),
        *_section("## Chunks that show nothing", means_table(numbers["means"], HIDDEN, "method")),
        "## Chunks that show everything, and the whole path",
        means_table(numbers["means"], CLEAR, "method"),
        means_table(numbers["means"], PATHS, "method"),
        *_section(
            f"## Differences from {REFERENCE}, paired (above 0: worse than {REFERENCE}; bold: 0 is outside the "
            "interval)",
            *(
                means_table(numbers["differences"], metrics, "method", marks=True)
                for metrics in (HIDDEN, CLEAR, PATHS)
            ),
        ),
        "## By length of the sequence",
        *(
            f"{chunks} chunks\n\n{means_table(table, BY_LENGTH, 'method')}"
            for chunks, table in numbers["by_length"].items()
        ),
        *_section(
            f"## Longest sequences, {REFERENCE}, by chunks that share a memory",
            means_table(numbers["by_memory"], SWEPT, "chunks in memory"),
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _section(title: str, *tables: str) -> list[str]:
    """Return a title and those of its tables that have rows; nothing when none has any."""
    full = [table for table in tables if table.count("\n") > 1]
    return [title, *full] if full else []


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
