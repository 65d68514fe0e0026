"""Predict, score, report: the numbers are those of the single commands, and nothing is done twice."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scal3r_eval import pipeline, predict, scoring, sequences
from scal3r_eval.baselines import straight_line
from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.results import RESULTS_NAME, EvalResults, read_scored
from scal3r_train.config import UserError
from scal3r_train.data.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.inference.load_model import checkpoint_sha256
from scal3r_train.inference.scene import load_scene
from scal3r_train.metrics.trajectory import score_trajectory
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from tests.eval.conftest import WriteRecipe

FIRST, SECOND = "town_001_00000", "town_001_00001"


def run(recipe: Path, *overrides: str) -> EvalResults:
    results = pipeline.evaluate(load_eval_recipe(recipe, overrides))
    assert results is not None
    return results


def ate(results: EvalResults, method: str, sequence: str) -> Any:
    return results.scores[method][sequence][0].metrics["ate_rmse_m"]


def truth_of(record: SequenceRecord, num_frames: int) -> torch.Tensor:
    assert record.cam_from_world is not None
    return invert_extrinsics(torch.from_numpy(record.cam_from_world[:num_frames]))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed: names of reconstructed and of scored sequences, as they come."""
    made: list[str] = []
    reconstruct, scored = predict.reconstruct, scoring._scored

    def counted(record: SequenceRecord, *arguments: Any) -> Any:
        made.append(f"predict {record.sequence_id}")
        return reconstruct(record, *arguments)

    def counted_scoring(run: Any, sequence: Any, *arguments: Any) -> Any:
        made.append(f"score {run.method} {sequence.name}")
        return scored(run, sequence, *arguments)

    monkeypatch.setattr(predict, "reconstruct", counted)
    monkeypatch.setattr(scoring, "_scored", counted_scoring)
    return made


def test_numbers_are_those_of_the_scene_and_the_index(
    write_recipe: WriteRecipe, towns: Path, checkpoint: Path, tmp_path: Path
) -> None:
    results = run(write_recipe())
    index = load_index(towns)
    for name in (FIRST, SECOND):
        record = index.find(name)
        truth = truth_of(record, 14)
        scene = load_scene(tmp_path / "out" / "scal3r" / name / "scene")
        expected = score_trajectory(scene.world_from_cam, truth, "sim3")
        assert ate(results, "scal3r", name) == pytest.approx(expected.ate_rmse_m, rel=1e-9)
        guess = score_trajectory(straight_line(truth), truth, "sim3")
        assert ate(results, "straight_line", name) == pytest.approx(guess.ate_rmse_m, rel=1e-9)
        names = "".join(f"{image}\n" for image in record.image[:14])
        assert results.sequences[name].frames_sha256 == hashlib.sha256(names.encode()).hexdigest()
        resources = results.scores["scal3r"][name][0].resources
        assert resources is not None
        assert resources.seconds == pytest.approx(sum(scene.info.timings_s.values()))
        assert resources.fps == pytest.approx(14 / resources.seconds)
        assert resources.peak_memory_bytes["host"] > 1 << 27
    both = [ate(results, "scal3r", name) for name in (FIRST, SECOND)]
    summary = results.summaries["scal3r"]["ate_rmse_m"]
    assert summary.mean == pytest.approx(sum(both) / 2)
    assert summary.low == pytest.approx(min(both)) and summary.high == pytest.approx(max(both))
    assert results.runs["scal3r"][0].checkpoint_sha256 == checkpoint_sha256(checkpoint)
    assert read_scored(tmp_path / "out" / RESULTS_NAME, EvalResults) == results
    for report in ("report.html", "report.md", "report.tex", "recipe.yaml"):
        assert (tmp_path / "out" / report).stat().st_size > 100


def test_nothing_is_done_twice_and_what_changed_is_done_again(
    write_recipe: WriteRecipe, calls: list[str], tmp_path: Path
) -> None:
    recipe = write_recipe()
    first = run(recipe)
    assert [call for call in calls if "predict" in call] == [f"predict {FIRST}", f"predict {SECOND}"]
    assert len([call for call in calls if "score" in call]) == 4
    calls.clear()
    again = run(recipe)
    assert calls == []
    assert again.scores == first.scores
    info = tmp_path / "out" / "scal3r" / SECOND / "scene" / "scene.json"
    info.unlink()
    run(recipe, f"sequences.names=[{FIRST}]")
    assert calls == [], "what is damaged is not in this run"
    info.parent.joinpath("points.ply").unlink()
    for path in info.parent.iterdir():
        path.unlink()
    info.parent.rmdir()
    run(recipe)
    assert calls == [f"predict {SECOND}", f"score scal3r {SECOND}"]
    calls.clear()
    run(recipe, "protocol.align=se3")
    assert sorted(calls) == sorted(f"score {m} {n}" for m in first.scores for n in (FIRST, SECOND))
    calls.clear()
    run(recipe, "protocol.overlap=2")
    assert [call for call in calls if "predict" in call] == [f"predict {FIRST}", f"predict {SECOND}"]


KILLED = """
import os, signal, sys
from scal3r_eval import predict
from scal3r_train.cli import main
reconstruct = predict.reconstruct
def once(record, *arguments):
    if record.sequence_id == "town_001_00001":
        os.kill(os.getpid(), signal.SIGKILL)
    return reconstruct(record, *arguments)
predict.reconstruct = once
main(["eval", sys.argv[1]])
"""


def test_a_killed_run_goes_on_where_it_was(
    write_recipe: WriteRecipe, calls: list[str], tmp_path: Path
) -> None:
    recipe = write_recipe()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(recipe)], env=os.environ, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "scal3r" / FIRST / "scores.json").is_file()
    assert not (tmp_path / "out" / RESULTS_NAME).exists()
    run(recipe)
    assert [call for call in calls if "scal3r" in call or "predict" in call] == [
        f"predict {SECOND}",
        f"score scal3r {SECOND}",
    ]


def test_failures_count_with_the_worst_valid_score_and_are_listed(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = write_recipe()
    good = run(recipe, "output_dir=" + str(tmp_path / "good"))
    reconstruct = predict.reconstruct

    def failing(record: SequenceRecord, *arguments: Any) -> Any:
        if record.sequence_id == SECOND:
            raise UserError("chunk 1 predicted NaN")
        return reconstruct(record, *arguments)

    monkeypatch.setattr(predict, "reconstruct", failing)
    results = run(recipe)
    assert results.failures == (
        {"method": "scal3r", "run": 0, "sequence": SECOND, "reason": "chunk 1 predicted NaN"},
    )
    first = ate(good, "scal3r", FIRST)
    worst = max(first, *(ate(good, "straight_line", name) for name in (FIRST, SECOND)))
    summary = results.summaries["scal3r"]["ate_rmse_m"]
    assert summary.mean == pytest.approx((first + worst) / 2)
    assert (summary.mean_of_valid, summary.num_failures) == (pytest.approx(first), 1)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "chunk 1 predicted NaN" in text and "(1 failed;" in text
    monkeypatch.setattr(predict, "reconstruct", reconstruct)
    assert run(recipe).failures == (), "failures are tried again"


def test_a_full_disk_is_no_failure_of_the_method(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UserError("scene cannot be written") from error

    monkeypatch.setattr(predict, "reconstruct", full)
    with pytest.raises(UserError, match="scene cannot be written"):
        run(write_recipe())


def test_shares_of_an_array_job_add_up(write_recipe: WriteRecipe, calls: list[str], tmp_path: Path) -> None:
    recipe = write_recipe()
    for number in (0, 1):
        assert pipeline.evaluate(load_eval_recipe(recipe, [f"protocol.share=[{number},2]"])) is None
        assert [call for call in calls if "predict" in call] == [f"predict {(FIRST, SECOND)[number]}"]
        assert not (tmp_path / "out" / RESULTS_NAME).exists()
        calls.clear()
    assert len(run(recipe).sequences) == 2
    assert calls == []


def test_what_is_missing_is_named_and_the_rest_is_run(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(
        sequences={"names": ["town_009_00000", FIRST, SECOND], "sha256": {SECOND: "0" * 64}},
        benchmark={"adapter": "towns"},
        methods={"static": {"kind": "baseline", "baseline": "static"}},
    )
    results = run(recipe)
    assert list(results.sequences) == [FIRST]
    absent, changed = results.missing
    assert "town_009_00000 is not in" in absent and "`scal3r data index towns DOWNLOADS" in absent
    assert f"{SECOND} has another frame list" in changed
    assert capsys.readouterr().err.count("left out: ") == 2
    assert len(run(recipe, "sequences.sha256={}").sequences) == 2


def test_without_any_data_the_command_that_gets_it_is_named(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    benchmark = {"name": "KITTI", "index": str(tmp_path / "kitti.parquet"), "adapter": "kitti_odometry"}
    recipe = write_recipe(benchmark=benchmark)
    with pytest.raises(UserError) as caught:
        run(recipe)
    message = str(caught.value)
    assert f"`scal3r data index kitti_odometry DOWNLOADS {tmp_path}/kitti.parquet`" in message
    assert "docs/data/kitti_odometry.md" in message and "\n" not in message
    with pytest.raises(UserError, match="nowhere is not there"):
        run(recipe, "benchmark.data_root=" + str(tmp_path / "nowhere"))


def test_a_data_set_as_published_is_indexed_once(
    write_recipe: WriteRecipe, towns: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Again for other options, for more files, after an indexing that did not end, and when the index is gone."""
    made: list[tuple[str, ...]] = []
    run_quietly = sequences.run_quietly

    def counted(*arguments: str) -> None:
        made.append(arguments)
        run_quietly(*arguments)

    monkeypatch.setattr(sequences, "run_quietly", counted)
    source = tmp_path / "towns"
    shutil.copytree(towns.parent, source)
    recipe = write_recipe(
        benchmark={"index": None, "adapter": "towns", "data_root": str(source)},
        methods={"static": {"kind": "baseline", "baseline": "static"}},
    )
    assert len(run(recipe).sequences) == 2
    assert len(run(recipe).sequences) == 2
    assert len(made) == 1
    provide = sequences.provide_index
    index = provide(load_eval_recipe(recipe, ["benchmark.options=[num_covisible=0]"]))
    assert len(made) == 2 and made[-1][-1] == "num_covisible=0"
    (source / "more").mkdir()
    provide(load_eval_recipe(recipe))
    provide(load_eval_recipe(recipe))
    assert len(made) == 3
    with pytest.raises(UserError):
        provide(load_eval_recipe(recipe, ["benchmark.options=[no_such=1]"]))
    provide(load_eval_recipe(recipe))
    assert len(made) == 5
    index.unlink()
    assert provide(load_eval_recipe(recipe)).is_file()
    assert len(made) == 6


def test_a_bad_checkpoint_is_found_before_any_work(
    write_recipe: WriteRecipe, calls: list[str], tmp_path: Path
) -> None:
    methods = {
        "good": {"kind": "scal3r"},
        "bad": {"kind": "scal3r", "checkpoint": str(tmp_path / "nowhere")},
    }
    with pytest.raises(UserError, match="nowhere does not exist"):
        run(write_recipe(methods=methods))
    assert calls == []


def test_two_processes_give_what_one_gives(write_recipe: WriteRecipe, torchrun: Any, tmp_path: Path) -> None:
    recipe = write_recipe(sequences={"names": [FIRST]})
    one = run(recipe)
    done = torchrun("-m", "scal3r_train.cli", "eval", recipe, f"output_dir={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_scored(tmp_path / "two" / RESULTS_NAME, EvalResults)
    assert two.num_processes == 2
    scored = two.scores["scal3r"][FIRST][0]
    assert scored.resources is not None and scored.resources.num_processes == 2
    assert ate(two, "scal3r", FIRST) == pytest.approx(ate(one, "scal3r", FIRST), rel=1e-4)


def test_the_same_without_sharing_and_without_memories(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    methods = {
        "scal3r": {"kind": "scal3r"},
        "same": {"kind": "scal3r", "memory": "sequence"},
        "no_gcs": {"kind": "scal3r", "memory": "chunk"},
        "no_gcm": {"kind": "scal3r", "memory": "off"},
    }
    results = run(write_recipe(methods=methods, sequences={"names": [FIRST]}))
    values = {name: ate(results, name, FIRST) for name in methods}
    assert values["same"] == values["scal3r"]
    assert len({values["scal3r"], values["no_gcs"], values["no_gcm"]}) == 3
    info = json.loads((tmp_path / "out" / "no_gcm" / FIRST / "scene" / "scene.json").read_text())
    assert info["recipe"]["model"]["memory"] == "off"


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
    reconstruct = predict.reconstruct

    def failing(record: SequenceRecord, model: Any, recipe: Any, *arguments: Any) -> Any:
        if recipe.model.memory == "off":
            raise UserError("chunk 1 predicted NaN")
        return reconstruct(record, model, recipe, *arguments)

    monkeypatch.setattr(predict, "reconstruct", failing)
    methods = {"scal3r": {"kind": "scal3r"}, "no_gcm": {"kind": "scal3r", "memory": "off"}}
    protocol = {"points": {"threshold": 1.0, "max_depth": 20.0}, "depth": "per_frame"}
    results = run(write_recipe(sequences={"names": [FIRST]}, methods=methods, protocol=protocol))
    for key in ("chamfer_m", "f1", "depth_abs_rel", "ate_rmse_m"):
        ours, failed = (results.summaries[name][key] for name in methods)
        assert failed.mean == ours.mean, key
        assert (failed.num_failures, failed.mean_of_valid) == (1, None)


def test_a_method_that_always_fails_is_an_error_with_a_report(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(protocol={"image_hw": [27, 42]})
    with pytest.raises(UserError, match=r"method scal3r failed on all 2 sequences, first: images would be"):
        pipeline.main(recipe, [])
    assert "2 failures, listed in the report" in capsys.readouterr().out
    assert "no multiple of the model" in (tmp_path / "out" / "report.html").read_text()
