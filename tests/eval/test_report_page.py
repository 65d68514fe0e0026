"""report.html in a real browser: it shows itself, asks for nothing, and text stays text."""

from pathlib import Path

import numpy as np
import pytest

from scal3r_eval import pipeline
from scal3r_eval.measures import SCORES
from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.report.page import page
from scal3r_eval.report.tables import all_tables, resource_table, runtime_table, sequence_table, summary_table
from scal3r_eval.results import EvalResults, Resources, SequenceFacts, SequenceScores
from tests.eval.conftest import WriteRecipe
from tests.scene.visualization.browser import chromium_page, find_chromium

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
    assert not any(row[0].is_cited for row in runtime_table(results).rows), (
        "the paper's times are not of this set"
    )
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg") == 2, "errors of the points of both sequences"
    assert "<b>" in text and "http" not in text.replace("http-equiv", "")


def taken(sequence: str, num_frames: int, seconds: float, device: str | None = None) -> SequenceScores:
    resources = Resources(
        seconds=seconds,
        fps=num_frames / seconds,
        num_processes=1,
        peak_memory_bytes={"host": 1 << 30},
        device=device,
    )
    return SequenceScores(
        identity={},
        method="ours",
        run=0,
        sequence=sequence,
        num_frames=num_frames,
        num_poses=num_frames,
        resources=resources,
    )


def resources_of(cited: str, *found: SequenceScores) -> EvalResults:
    """Results of a method on whole sequences, and on one that is cut to 150 frames."""
    facts = {
        one.sequence: SequenceFacts(
            is_cut="[" in one.sequence,
            num_frames=one.num_frames,
            num_true_poses=one.num_frames,
            frames_sha256="",
            path_length_m=1.0,
        )
        for one in found
    }
    return EvalResults(
        created="",
        code_version="",
        recipe={"benchmark": {"name": "x", "cited": cited}},
        device="the writer's machine",
        num_processes=1,
        missing=(),
        sequences=facts,
        runs={},
        summaries={"ours": {}},
        scores={"ours": {one.sequence: (one,) for one in found}},
        failures=(),
    )


def test_resources_are_means_by_sequence_beside_the_papers() -> None:
    """The paper's 300.76 s at 2.53 frames a second are 761 frames, the mean of its three sequences."""
    found = [taken("03", 800, 100.0), taken("04", 200, 40.0), taken("03[:150]", 150, 1.0)]
    table = resource_table(resources_of("kitti", *found))
    assert table.head[1:4] == ("frames/sequence", "seconds/sequence", "frames/s")
    ours, scal3r, _ = table.rows
    assert [cell.text for cell in ours[1:4]] == ["500.0", "70.00", "7.14"]
    assert [cell.text for cell in scal3r[2:4]] == ["300.76", "2.53"]
    assert len(resource_table(resources_of("vkitti2", *found)).rows) == 1
    runtime = runtime_table(resources_of("kitti", *found)).rows
    assert [row[5].text for row in runtime[:3]] == ["-"] * 3, "without an RPE there is none, not 0"
    assert [[cell.text for cell in row[2:6]] for row in runtime[3:]] == [
        ["150", "51.19", "2.93", "0.07-0.08"],
        ["990", "382.80", "2.59", "0.07-0.08"],
    ]
    assert all(cell.is_cited for row in runtime[3:] for cell in row)
    assert len(runtime_table(resources_of("eth3d", *found)).rows) == 3


def test_resources_name_the_devices_of_the_scenes() -> None:
    known = [taken("03", 8, 1.0, "H100"), taken("04", 8, 1.0, "A100")]
    table = resource_table(resources_of("kitti", *known))
    assert table.head[-1] == "device" and table.rows[0][-1].text == "H100; A100"
    assert "writer" not in table.note and {len(row) for row in table.rows} == {len(table.head)}
    before = resource_table(resources_of("kitti", taken("03", 8, 1.0)))
    assert "device" not in before.head and "the writer's machine" in before.note


def test_all_that_the_paper_says_of_kitti_is_marked_as_its_own() -> None:
    tables = [one for one in all_tables(resources_of("kitti", taken("03", 8, 1.0))) if "(cited" in one.title]
    paper, ablation = tables
    assert len(paper.rows) == 13 and paper.head[-3:] == ("memory (GB)", "seconds", "frames/s")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in paper.rows}
    assert rows["Scal3R"] == ["14.55", "0.97", "4.61", "10.32", "300.76", "2.53"]
    assert rows["COLMAP"][-3:] == ["0.00", "6614.73", "0.17"]
    assert [[cell.text for cell in row] for row in ablation.rows][1:] == [
        ["without GCS", "1.28", "7.01", "15.80"],
        ["without GCM", "1.30", "7.03", "19.00"],
    ]
    assert ablation.head[1:] == ("RRE (deg/100 m)", "RTE (m/100 m)", "ATE (m)")
    assert "settings of its own" in ablation.note
    assert all(cell.is_cited for table in tables for row in table.rows for cell in row)


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
