"""Tables as Markdown and LaTeX: the best in bold, cited numbers apart, nothing taken for markup."""

import re

import pytest

from scal3r_eval.measures import SCORES, Measure
from scal3r_eval.report.tables import best_of
from scal3r_eval.report.text import Cell, Table, latex, markdown, plain

ATE = next(measure for measure in SCORES if measure.key == "ate_rmse_m")
F1 = next(measure for measure in SCORES if measure.key == "f1")


@pytest.mark.parametrize(
    ("measure", "values", "best"),
    [
        (ATE, [2.0, 1.0, None], [False, True, False]),
        (F1, [0.2, 0.9, 0.9], [False, True, True]),
        (ATE, [1.00001, 1.00002, 3.0], [True, True, False]),  # printed alike
        (ATE, [1.0, None], [False, False]),  # nothing to compare
        (ATE, [None, None], [False, False]),
        (F1, [0.00001, 0.00002, None], [False, True, False]),
        (F1, [0.0, 0.0, None], [False, False, False]),  # nothing to tell apart
    ],
)
def test_the_best_is_the_one_at_the_good_end(
    measure: Measure, values: list[float | None], best: list[bool]
) -> None:
    assert best_of(values, measure) == best


def test_numbers_are_printed_with_the_digits_of_their_measure() -> None:
    assert [ATE.text(value) for value in (1.23456, None, 0.0, 0.00001234, -0.0001)] == [
        "1.235",
        "-",
        "0.000",
        "1.2e-05",
        "-0.0001",
    ]


TABLE = Table(
    "ours & theirs",
    ("", "a_b", "Scal3R (cited)"),
    (
        (
            Cell("50% <x> | {y}"),
            Cell("1.0", is_best=True, detail="[0.5, 1.5]"),
            Cell("0.85", is_cited=True),
        ),
        (Cell("f$1_2"), Cell("-"), Cell("-", is_cited=True)),
    ),
    "a note",
)


def test_markdown() -> None:
    lines = markdown("title", ["made by *me*"], [TABLE]).splitlines()
    assert r"made by \*me\*" in lines
    assert lines[-6:] == [
        "|  | a_b | Scal3R (cited) |",
        "| --- | ---: | ---: |",
        r"| 50% \<x> \| {y} | **1.0** [0.5, 1.5] | *0.85* |",
        "| f$1_2 | - | - |",
        "",
        "a note",
    ]


def test_latex() -> None:
    text = latex([TABLE])
    assert r"50\% $<$x$>$ | \{y\} & \textbf{1.0} {\scriptsize [0.5, 1.5]} & \textit{0.85} \\" in text
    assert r"f\$1\_2 & - & - \\" in text
    assert r"\caption{ours \& theirs. a note}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert all(len(re.findall(r"(?<!\\)&", row)) == 2 for row in body), "as many cells as columns"
    assert not re.search(r"(?<!\\)[%#_$]", text.split("\n", 1)[1].replace("$<$", "").replace("$>$", ""))


def test_plain_columns_line_up() -> None:
    lines = plain(TABLE).splitlines()
    assert lines[1].split("  ")[0] == "50% <x> | {y}"
    assert "1.0*" in lines[1] and "[0.5" not in lines[1]
    assert len({line.find("a_b") + 3 for line in lines[:1]} | {lines[1].find("1.0*") + 4}) == 1


def test_a_link_in_a_name_stays_text() -> None:
    text = markdown("x", [], [Table("t", ("",), ((Cell("[a](http://b)"),),))])
    assert r"[a\](http://b)" in text
