"""report.html: one file without scripts that needs no network."""

from __future__ import annotations

import base64
from pathlib import Path

from scal3r_eval.report.cited import SOURCE
from scal3r_eval.report.curves import (
    METHOD_STYLE,
    axis_by_axis,
    error_along_path,
    from_above,
    load_paths,
    runtime_chart,
)
from scal3r_eval.report.text import Cell, Table
from scal3r_eval.results import POINT_ERRORS_NAME, EvalResults
from scal3r_eval.sequences import folder_name
from scal3r_train.config import UserError
from scal3r_train.scene.visualization.html import STYLE, Child, Html, facts, joined, tag, void
from scal3r_train.scene.visualization.html import table as html_table

MAX_SEQUENCES = 12  # that are drawn; the tables hold all
CELL_STYLE = """
td i, td small { color: var(--faint); } td small { white-space: nowrap; }
td:not(:first-child), th:not(:first-child) { text-align: right; }
"""


def page(output_dir: Path, results: EvalResults, lines: list[str], tables: list[Table]) -> str:
    """Return the page of an evaluation whose files lie in a folder; `lines` say where the numbers are from."""
    title = f"{results.benchmark} - Scal3R evaluation"
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        # What the page may do, should anything in it ever not be what it seems: show itself.
        void(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("style", Html(STYLE + METHOD_STYLE + CELL_STYLE)),
    )
    sections: list[Child] = [_section(table, results) for table in tables]
    body = tag(
        "body",
        tag("h1", title),
        *(tag("p", line, class_="faint") for line in lines),
        _header(results),
        _warnings(results),
        *sections,
        *_drawn(output_dir, results),
        _provenance(results),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _header(results: EvalResults) -> Html:
    whole = [one for one in results.sequences.values() if not one.is_cut]
    frames, length = sum(one.num_frames for one in whole), sum(one.path_length_m for one in whole)
    return facts(
        [
            ("sequences", str(len(whole))),
            ("frames", f"{frames:,}"),
            ("path length", f"{length:,.0f} m"),
            ("methods", str(len(results.scores))),
            ("failures", str(len(results.failures))),
            ("sequences left out", str(len(results.missing))),
        ]
    )


def _warnings(results: EvalResults) -> Html | None:
    if not results.missing:
        return None
    lines = [tag("li", f"left out: {line}") for line in results.missing[:MAX_SEQUENCES]]
    if len(results.missing) > MAX_SEQUENCES:
        lines.append(tag("li", f"and {len(results.missing) - MAX_SEQUENCES} more, in results.json"))
    return tag("ul", *lines, class_="warnings")


def _section(table: Table, results: EvalResults) -> Html:
    shown: list[Child] = [tag("h2", table.title), _html(table)]
    if table.note:
        shown.append(tag("p", table.note, class_="faint"))
    if table.title.startswith("Runtime"):
        shown.append(runtime_chart(results))
    return joined(shown)


def _html(table: Table) -> Html:
    return html_table(table.head, [[_cell(cell) for cell in row] for row in table.rows])


def _cell(cell: Cell) -> Child:
    text: Child = cell.text
    if cell.is_best:
        text = tag("b", cell.text)
    elif cell.is_cited:
        text = tag("i", cell.text)
    return joined([text, void("br"), tag("small", cell.detail)]) if cell.detail else text


def _drawn(output_dir: Path, results: EvalResults) -> list[Child]:
    """Return the sequences' pictures, the first unfolded."""
    names = [name for name, one in results.sequences.items() if not one.is_cut]
    parts: list[Child] = [tag("h2", "Trajectories")]
    if len(names) > MAX_SEQUENCES:
        parts.append(tag("p", f"The first {MAX_SEQUENCES} of {len(names)} sequences.", class_="faint"))
    for place, name in enumerate(names[:MAX_SEQUENCES]):
        try:
            paths = load_paths(output_dir, results, name)
        except UserError as error:
            parts.append(tag("p", str(error)))
            continue
        shown = [from_above(paths), error_along_path(paths) if paths.curves else None, axis_by_axis(paths)]
        opened = {"open": ""} if place == 0 else {}
        pictures = _point_errors(output_dir, results, name)
        parts.append(tag("details", tag("summary", name), *shown, *pictures, **opened))
    return parts


def _point_errors(output_dir: Path, results: EvalResults, sequence: str) -> list[Html]:
    """Return the pictures of points coloured by error that scoring left."""
    found = []
    for method, runs in results.runs.items():
        path = output_dir / runs[0].folder / folder_name(sequence) / POINT_ERRORS_NAME
        if results.scores[method][sequence][0].failure is None and path.is_file():
            data = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
            caption = f"points of {method} from above: blue at the truth, red at the threshold or farther"
            found.append(tag("figure", void("img", src=data, alt=caption), tag("figcaption", caption)))
    return found


def _provenance(results: EvalResults) -> Html:
    rows = [
        (method, run.folder, run.source, run.checkpoint_sha256 or "-")
        for method, runs in results.runs.items()
        for run in runs
    ]
    frames = [(name, one.num_frames, one.frames_sha256) for name, one in results.sequences.items()]
    return joined(
        [
            tag("h2", "Where this is from"),
            html_table(("method", "folder", "source", "SHA-256"), rows),
            tag(
                "details",
                tag("summary", "Frame lists"),
                html_table(("sequence", "frames", "SHA-256"), frames),
            ),
            tag("p", f"Cited numbers: {SOURCE}.", class_="faint") if results.cited else None,
        ]
    )
