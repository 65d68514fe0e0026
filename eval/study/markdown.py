"""results.md: the numbers of results.json as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scal3r_eval.study.settings import REFERENCE
from scal3r_eval.study.summary import TITLES

HIDDEN = ("hidden_yaw_deg", "hidden_length_percent", "hidden_shift_percent", "hidden_fov_deg")
CLEAR = ("clear_yaw_deg", "clear_shift_percent", "scale_spread_percent", "ate_percent", "ate_se3_percent")
SWEPT = (*HIDDEN[:3], "clear_yaw_deg", "clear_shift_percent")
BY_LENGTH = ("hidden_yaw_deg", "hidden_shift_percent", "ate_percent", "ate_se3_percent")


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
        f"## Differences from {REFERENCE}, paired (above 0: worse than {REFERENCE}; bold: 0 is outside the interval)",
        means_table(numbers["differences"], HIDDEN, "method", marks=True),
        means_table(numbers["differences"], CLEAR, "method", marks=True),
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
