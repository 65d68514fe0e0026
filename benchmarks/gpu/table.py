"""Results as Markdown, and their place in docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Part, Row

BEGIN, END = "<!-- gpu_day: begin -->", "<!-- gpu_day: end -->"


def markdown(results: Mapping[str, Any], parts: tuple[Part, ...]) -> str:
    """Return one table for each part, and a line where a part is missing or did not end well."""
    head = f"`{results['command']}`, {results['date']}, size {results['size']} on {results['device']}."
    blocks = [head]
    for part in parts:
        found = results["parts"].get(part.name)
        if found is None:
            continue
        lines = [f"**{part.title}** (`{part.name}`, {found['seconds']:.0f} s)"]
        if found["status"] != "ok":
            lines[0] += f" - {found['status']}: {found['reason']}"
        blocks += [*lines, *([table(part, found["rows"])] if found["rows"] else [])]
    return "\n\n".join(blocks)


def table(part: Part, rows: list[Row]) -> str:
    """Return the rows as a table; columns that no row fills are left out."""
    columns = {key: heading for key, heading in part.columns.items() if any(key in row for row in rows)}
    lines = [cells(columns.values()), cells("---" for _ in columns)]
    return "\n".join([*lines, *(cells(text(row.get(key)) for key in columns) for row in rows)])


def cells(values: Any) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(str(value).replace('|', '/') for value in values)} |"


def text(value: Any) -> str:
    """Return a number or word as people write it."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def inserted(document: str, results: Mapping[str, Any], parts: tuple[Part, ...]) -> str:
    """Return the document with the tables in their place.

    Raises:
        ValueError: the document has no place for them, or the results are those of a rehearsal.
    """
    if (results["device"], results["size"]) != ("cuda", "full"):
        raise ValueError(
            f"results of size {results['size']} on {results['device']} are a rehearsal's: not published"
        )
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n\n{markdown(results, parts)}\n\n{END}{after}"
