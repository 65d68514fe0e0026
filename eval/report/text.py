"""Tables made of cells, and their form as Markdown, as LaTeX and for a terminal; the paper's cells stand apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

BESIDE_OURS = ("Scal3R", "VGGT-Long")  # the paper's method and its baseline, beside ours
CITED = "cited"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
}
MARKDOWN_SPECIAL = re.compile(r"([\\`*|<]|\](?=\())")


@dataclass(frozen=True)
class Cell:
    """A cell; `is_best` is set in bold, `is_cited` is somebody else's number; `detail` stands behind, smaller."""

    text: str
    is_best: bool = False
    is_cited: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title; the first column names the row. `note` stands below."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def cited_cells(*texts: str) -> tuple[Cell, ...]:
    """Return cells of somebody else's words and numbers."""
    return tuple(Cell(text, is_cited=True) for text in texts)


def cited_cell(value: float | None) -> Cell:
    """Return somebody else's number with the digits that they give: two, or three where they are needed."""
    if value is None:
        return Cell("-", is_cited=True)
    return Cell(f"{value:.2f}" if round(value, 2) == value else f"{value:g}", is_cited=True)


def markdown(title: str, lines: Sequence[str], tables: Sequence[Table]) -> str:
    """Return a Markdown page: title, lines of facts, tables with the best in bold and cited numbers in italics."""
    parts = [f"# {_markdown_text(title)}", *(_markdown_text(line) for line in lines)]
    for table in tables:
        head = "| " + " | ".join(_markdown_text(name) for name in table.head) + " |"
        rule = "|" + "|".join([" --- ", *[" ---: "] * (len(table.head) - 1)]) + "|"
        rows = ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in table.rows]
        parts += [f"## {_markdown_text(table.title)}", "\n".join([head, rule, *rows])]
        if table.note:
            parts.append(_markdown_text(table.note))
    return "\n\n".join(parts) + "\n"


def plain(table: Table) -> str:
    """Return a table for a terminal: columns side by side, the best marked by a star, details left out."""
    rows = [table.head, *([cell.text + ("*" if cell.is_best else "") for cell in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.head))]
    lines = (
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def latex(tables: Sequence[Table]) -> str:
    r"""Return the tables for \input; they need the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}; written by scal3r eval"]
    for table in tables:
        columns = "l" + "r" * (len(table.head) - 1)
        caption = _latex_text(f"{table.title}. {table.note}" if table.note else table.title)
        rows = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{caption}}}",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    " & ".join(_latex_text(name) for name in table.head) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    if cell.is_best:
        text = f"**{text}**"
    elif cell.is_cited and cell.text != "-":
        text = f"*{text}*"
    return f"{text} {_markdown_text(cell.detail)}".rstrip()


def _latex_cell(cell: Cell) -> str:
    text = _latex_text(cell.text)
    if cell.is_best:
        text = rf"\textbf{{{text}}}"
    elif cell.is_cited and cell.text != "-":
        text = rf"\textit{{{text}}}"
    return rf"{text} {{\scriptsize {_latex_text(cell.detail)}}}" if cell.detail else text


def _markdown_text(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _latex_text(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
