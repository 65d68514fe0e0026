"""What tables are made of: cells, of which the paper's stand apart."""

from __future__ import annotations

from dataclasses import dataclass

BESIDE_OURS = ("Scal3R", "VGGT-Long")  # the paper's method and its baseline, beside ours
CITED = "cited"


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
