"""The paper's own numbers for a benchmark, none of them measured here."""

from __future__ import annotations

from scal3r_eval.cited import ABLATION, POSE_KEYS, RESOURCES, RESOURCES_OF, cited_metrics
from scal3r_eval.measures import SCORES
from scal3r_eval.report.cells import CITED, Cell, Table, cited_cell

KNOWN_INTRINSICS = ("DROID-SLAM", "DPVO++")


def cited_table(benchmark: str | None) -> Table:
    """Return all that the paper states for a benchmark, resources included where they are of it."""
    cited = cited_metrics(benchmark)
    measures = [measure for measure in SCORES if any(measure.key in row for row in cited.values())]
    has_resources = benchmark == RESOURCES_OF
    rows = [
        (
            Cell(name, is_cited=True),
            *(cited_cell(row.get(measure.key)) for measure in measures),
            *(map(cited_cell, RESOURCES[name]) if has_resources else ()),
        )
        for name, row in cited.items()
    ]
    notes = []
    if has_resources:
        notes.append(
            "Memory, seconds and frames/s are means over KITTI 03, 04 and 10 on one RTX 4090, FastVGGT's on an A800."
        )
    if any(name in cited for name in KNOWN_INTRINSICS):
        notes.append(f"{' and '.join(KNOWN_INTRINSICS)} are given the cameras' intrinsics.")
    head = (
        "method",
        *(measure.title for measure in measures),
        *(("memory (GB)", "seconds", "frames/s") if has_resources else ()),
    )
    return Table(f"The paper's numbers ({CITED}, not measured here)", head, tuple(rows), " ".join(notes))


def ablation_table(benchmark: str | None) -> Table:
    """Return what the paper's global context is worth by its table 3; no rows for other benchmarks than KITTI."""
    measures = [next(one for one in SCORES if one.key == key) for key in POSE_KEYS]
    rows = tuple(
        (Cell(name, is_cited=True), *map(cited_cell, values))
        for name, values in (ABLATION if benchmark == "kitti" else {}).items()
    )
    note = (
        "For reference alone: trained and run under settings of its own, as its full model's 13.70 m against 14.55 m "
        "of the paper's table 1 shows. Our notes on the paper do not name the set; by the size of its numbers it is "
        "KITTI."
    )
    head = ("method", *(measure.title for measure in measures))
    return Table(f"The paper's ablation, table 3 ({CITED}, not measured here)", head, rows, note)
