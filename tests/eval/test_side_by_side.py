"""Other systems, cut sequences and poses on some of the frames beside ours."""

from pathlib import Path
from typing import Any

import pytest
import torch

from scal3r_eval import predict_sequence
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from tests.eval.conftest import WriteRecipe
from tests.eval.evaluating import FIRST, SECOND, ate, run, truth_of


def test_an_external_system_stands_beside_ours(
    write_recipe: WriteRecipe, towns: Path, tmp_path: Path
) -> None:
    """The truth in another world, by time and by frame; seeds are runs; what it lacks is a failure."""
    record = load_index(towns).find(FIRST)
    truth = truth_of(record, 14)
    turned = truth.clone()
    turned[:, :, 3] = 3 * truth[:, :, 3]
    noisy = turned.clone()
    noisy[5, 0, 3] += 1.0
    times = torch.from_numpy(record.timestamp[:14])
    for folder, poses in (("a", turned), ("b", noisy)):
        (tmp_path / folder).mkdir()
        write_trajectory(tmp_path / folder / f"{FIRST}.tum", Trajectory(poses, times), "tum")
    (tmp_path / "k").mkdir()
    write_trajectory(tmp_path / "k" / f"{FIRST}.txt", Trajectory(turned, None), "kitti")
    (tmp_path / "k" / f"{SECOND}.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 5)
    methods = {
        "seeds": {"kind": "external", "folder": [str(tmp_path / "a"), str(tmp_path / "b")]},
        "kitti": {"kind": "external", "folder": str(tmp_path / "k")},
        "static": {"kind": "baseline", "baseline": "static"},
    }
    results = run(write_recipe(methods=methods))
    exact, off = (one.metrics["ate_rmse_m"] for one in results.scores["seeds"][FIRST])
    assert exact == pytest.approx(0, abs=1e-6) and off is not None and off > 0.01
    assert ate(results, "kitti", FIRST) == pytest.approx(0, abs=1e-6)
    reasons = {(one["method"], one["run"]): one["reason"] for one in results.failures}
    assert set(reasons) == {("seeds", 0), ("seeds", 1), ("kitti", 0)}
    assert "has no town_001_00001" in reasons[("seeds", 0)]
    assert "5 poses without times" in reasons[("kitti", 0)]
    summary = results.summaries["seeds"]["ate_rmse_m"]
    worst = max(ate(results, "static", name) for name in (FIRST, SECOND))
    assert summary.mean == pytest.approx((off / 2 + worst) / 2, rel=1e-6)


def test_an_external_system_may_state_what_it_took(
    write_recipe: WriteRecipe, towns: Path, tmp_path: Path
) -> None:
    record = load_index(towns).find(FIRST)
    folder, stated = tmp_path / "a", tmp_path / "a" / f"{FIRST}.resources.json"
    folder.mkdir()
    write_trajectory(folder / f"{FIRST}.txt", Trajectory(truth_of(record, 14), None), "kitti")
    recipe = write_recipe(
        sequences={"names": [FIRST]}, methods={"other": {"kind": "external", "folder": str(folder)}}
    )
    assert run(recipe).scores["other"][FIRST][0].resources is None
    stated.write_text('{"seconds": 7.0, "peak_memory_bytes": {"device": 2000000000}, "device": "one card"}')
    resources = run(recipe).scores["other"][FIRST][0].resources
    assert resources is not None and (resources.seconds, resources.fps) == (7.0, 2.0)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "one card" in report and "7.0" in report
    stated.write_text('{"minutes": 7.0}')
    assert "minutes" in str(run(recipe).failures[0]["reason"])


def test_few_poses_are_a_failure(write_recipe: WriteRecipe, towns: Path, tmp_path: Path) -> None:
    record = load_index(towns).find(FIRST)
    (tmp_path / "a").mkdir()
    part = Trajectory(truth_of(record, 6), torch.from_numpy(record.timestamp[:6]))
    write_trajectory(tmp_path / "a" / f"{FIRST}.tum", part, "tum")
    recipe = write_recipe(
        sequences={"names": [FIRST]}, methods={"some": {"kind": "external", "folder": str(tmp_path / "a")}}
    )
    results = run(recipe)
    assert "6 of 14 frames have a pose" in str(results.failures[0]["reason"])
    assert results.summaries == {"some": {}}
    again = run(recipe, "protocol.min_coverage=0.4")
    assert ate(again, "some", FIRST) == pytest.approx(0, abs=1e-6)
    assert again.scores["some"][FIRST][0].num_poses == 6


def test_cut_sequences_show_runtime_and_count_in_no_mean(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    sequences = {"names": [FIRST, SECOND], "lengths": [9, 40]}
    results = run(write_recipe(sequences=sequences))
    assert list(results.sequences) == [FIRST, f"{FIRST}[:9]", SECOND, f"{SECOND}[:9]"]
    whole = run(write_recipe(output_dir=str(tmp_path / "whole")))
    assert results.summaries == whole.summaries
    cut = results.scores["scal3r"][f"{FIRST}[:9]"][0]
    assert cut.num_frames == cut.num_poses == 9
    assert "town_001_00000[:9]" in (tmp_path / "out" / "report.md").read_text()
    assert list(results.scores["straight_line"]) == [FIRST, SECOND], "what others take is not known"


def test_an_external_system_is_not_asked_for_cut_sequences(
    write_recipe: WriteRecipe, towns: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    poses = Trajectory(truth_of(load_index(towns).find(FIRST), 14), None)
    write_trajectory(tmp_path / "a" / f"{FIRST}.txt", poses, "kitti")
    methods = {"scal3r": {"kind": "scal3r"}, "some": {"kind": "external", "folder": str(tmp_path / "a")}}
    results = run(write_recipe(sequences={"names": [FIRST], "lengths": [9]}, methods=methods))
    assert results.failures == ()
    assert [list(one) for one in results.scores.values()] == [[FIRST, f"{FIRST}[:9]"], [FIRST]]
    assert not (tmp_path / "out" / "some" / f"{FIRST}__9_").exists()
    assert "Runtime against length" in (tmp_path / "out" / "report.html").read_text()


def test_poses_on_some_frames_are_scored_by_frame_and_said(
    write_recipe: WriteRecipe, towns: Path, tmp_path: Path
) -> None:
    record = load_index(towns).find(FIRST)
    places = torch.tensor([0, 1, 2, 4, 6, 8, 10, 12])
    (tmp_path / "a").mkdir()
    some = Trajectory(truth_of(record, 14)[places], torch.from_numpy(record.timestamp)[places])
    write_trajectory(tmp_path / "a" / f"{FIRST}.tum", some, "tum")
    methods = {
        "some": {"kind": "external", "folder": str(tmp_path / "a")},
        "static": {"kind": "baseline", "baseline": "static"},
    }
    results = run(write_recipe(sequences={"names": [FIRST]}, methods=methods))
    assert [results.scores[name][FIRST][0].metrics["num_rpe_pairs"] for name in methods] == [2, 13]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| frames with a pose | 57.1 % | 100.0 % |" in text
    full = run(write_recipe(methods={"static": methods["static"]}))
    assert full.failures == () and "frames with a pose" not in (tmp_path / "out" / "report.md").read_text()


def test_ours_that_always_fail_stand_in_the_rows_of_points_and_depth(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reconstruct = predict_sequence.reconstruct

    def failing(record: SequenceRecord, model: Any, recipe: Any, *arguments: Any) -> Any:
        if recipe.model.memory == "off":
            raise UserError("chunk 1 predicted NaN")
        return reconstruct(record, model, recipe, *arguments)

    monkeypatch.setattr(predict_sequence, "reconstruct", failing)
    methods = {"scal3r": {"kind": "scal3r"}, "no_gcm": {"kind": "scal3r", "memory": "off"}}
    protocol = {"points": {"threshold": 1.0, "max_depth": 20.0}, "depth": "per_frame"}
    results = run(write_recipe(sequences={"names": [FIRST]}, methods=methods, protocol=protocol))
    for key in ("chamfer_m", "f1", "depth_abs_rel", "ate_rmse_m"):
        ours, failed = (results.summaries[name][key] for name in methods)
        assert failed.mean == ours.mean, key
        assert (failed.num_failures, failed.mean_of_valid) == (1, None)
