"""report.html in a real browser: it shows itself, asks for nothing, and text stays text."""

from pathlib import Path

import numpy as np
import pytest

from scal3r_eval import pipeline
from scal3r_eval.measures import SCORES
from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.report.page import page
from scal3r_eval.report.tables import all_tables, runtime_table, sequence_table, summary_table
from scal3r_eval.results import EvalResults
from tests.eval.conftest import WriteRecipe
from tests.inference.browser import chromium_page, find_chromium

EVIL = '<script>alert("1")</script>'
ATE = next(measure for measure in SCORES if measure.key == "ate_rmse_m")


@pytest.fixture
def results(write_recipe: WriteRecipe) -> EvalResults:
    """Ours and two baselines on two towns, points and depth as well; the benchmark's name is markup."""
    methods = {
        "scal3r": {"kind": "scal3r", "overrides": ["loop_closure.enabled=false"]},
        "static": {"kind": "baseline", "baseline": "static"},
        "constant_turn": {"kind": "baseline", "baseline": "constant_turn"},
    }
    recipe = write_recipe(
        methods=methods,
        benchmark={"name": EVIL, "cited": "vkitti2"},
        protocol={
            "image_hw": [28, 42],
            "chunk_size": 8,
            "overlap": 4,
            "points": {"threshold": 1.0, "max_depth": 20.0},
            "depth": "per_frame",
        },
    )
    found = pipeline.evaluate(load_eval_recipe(recipe))
    assert found is not None
    return found


def test_tables_and_page(results: EvalResults, tmp_path: Path) -> None:
    summary = summary_table(results)
    assert summary.head == ("", "scal3r", "static", "constant_turn", "Scal3R (cited)", "VGGT-Long (cited)")
    rows = {row[0].text: row for row in summary.rows}
    assert [cell.text for cell in rows["ATE (m)"][-2:]] == ["0.85", "1.03"]
    assert not any(cell.is_best for row in summary.rows for cell in row[-2:]), "cited numbers do not compete"
    means = [results.summaries[name]["ate_rmse_m"].mean for name in results.scores]
    assert [cell.is_best for cell in rows["ATE (m)"][1:4]] == [value == min(means) for value in means]
    assert rows["F1"][2].text == "-" and 0 <= float(rows["F1"][1].text) <= 1
    assert {"depth AbsRel", "Chamfer (m)", "AUC@30"} <= set(rows)
    by_sequence = sequence_table(results, ATE)
    assert [row[0].text for row in by_sequence.rows] == list(results.sequences)
    cited = [row for row in runtime_table(results).rows if row[0].is_cited]
    assert [[cell.text for cell in row[2:5]] for row in cited] == [
        ["150", "51.19", "2.93"],
        ["990", "382.80", "2.59"],
    ]
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg") == 2, "errors of the points of both sequences"
    assert "<b>" in text and "http" not in text.replace("http-equiv", "")


def test_it_opens_in_chromium(results: EvalResults, tmp_path: Path) -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium; `make chromium` installs one")
    path = tmp_path / "out" / "report.html"
    with chromium_page() as browser:
        browser.open(path.as_uri(), 1000, 1300)
        assert browser.problems == []
        assert browser.requests == [path.as_uri()]
        assert browser.evaluate("document.querySelectorAll('table').length") >= 6
        assert browser.evaluate("document.body.scrollWidth") <= 1000, "tables scroll in themselves"
        bold = browser.evaluate("getComputedStyle(document.querySelector('td b')).fontWeight")
        assert int(bold) >= 600
        drawn = "[...document.querySelectorAll('details[open] svg path.m0')].map(p => p.getBBox().width)"
        widths = browser.evaluate(drawn)
        assert len(widths) == 5 and min(widths[0], widths[1]) > 20, "a map, an error, three axes"
        light = browser.screenshot()
        browser.open(path.as_uri(), 1000, 1300, dark=True)
        dark = browser.screenshot()
    assert light.mean() > 180 and dark.mean() < 100
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 50


def test_files_that_went_are_said_to_be_missing(results: EvalResults, tmp_path: Path) -> None:
    for path in (tmp_path / "out" / "truth").glob("*.tum"):
        path.unlink()
    text = page(tmp_path / "out", results, [], all_tables(results))
    assert text.count("cannot be read as a trajectory") == 2
