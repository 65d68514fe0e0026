"""Predict, score, report: the numbers are those of the single commands, and nothing is done twice."""

import errno
import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from scal3r_eval import pipeline, predict_sequence, score_sequence, sequences
from scal3r_eval.baselines import straight_line
from scal3r_eval.recipe import load_eval_recipe
from scal3r_eval.results import RESULTS_NAME, EvalResults, read_scored
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory import score_trajectory
from scal3r_train.model.load_model import checkpoint_sha256
from scal3r_train.scene.scene import load_scene
from tests.eval.conftest import WriteRecipe
from tests.eval.evaluating import FIRST, SECOND, ate, run, truth_of
from tests.forking import ForkServer


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
        assert resources.device == scene.info.device == results.device
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_sequence, "SCORING_SHA256", "other code")
        run(recipe)
    assert sorted(calls) == sorted(f"score {m} {n}" for m in first.scores for n in (FIRST, SECOND))
    calls.clear()
    run(recipe, "protocol.overlap=2")
    assert [call for call in calls if "predict" in call] == [f"predict {FIRST}", f"predict {SECOND}"]


KILLED = """
import os, signal, sys
from scal3r_eval import predict_sequence
from scal3r_train.cli import main
reconstruct = predict_sequence.reconstruct
def once(record, *arguments):
    if record.sequence_id == "town_001_00001":
        os.kill(os.getpid(), signal.SIGKILL)
    return reconstruct(record, *arguments)
predict_sequence.reconstruct = once
main(["eval", sys.argv[1]])
"""


def test_a_killed_run_goes_on_where_it_was(
    write_recipe: WriteRecipe, calls: list[str], forks: ForkServer, tmp_path: Path
) -> None:
    recipe = write_recipe()
    killed = forks.run("-c", KILLED, recipe)
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
    reconstruct = predict_sequence.reconstruct

    def failing(record: SequenceRecord, *arguments: Any) -> Any:
        if record.sequence_id == SECOND:
            raise UserError("chunk 1 predicted NaN")
        return reconstruct(record, *arguments)

    monkeypatch.setattr(predict_sequence, "reconstruct", failing)
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
    monkeypatch.setattr(predict_sequence, "reconstruct", reconstruct)
    assert run(recipe).failures == (), "failures are tried again"


def test_a_full_disk_is_no_failure_of_the_method(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UserError("scene cannot be written") from error

    monkeypatch.setattr(predict_sequence, "reconstruct", full)
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
        """Once for real; then what the command would leave, since starting it takes seconds."""
        made.append(arguments)
        if len(made) == 1:
            run_quietly(*arguments)
            shutil.copy(arguments[4], tmp_path / "kept.parquet")
        elif "no_such=1" in arguments:
            raise UserError("no such option")
        else:
            shutil.copy(tmp_path / "kept.parquet", arguments[4])

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


def test_two_processes_give_what_one_gives(
    write_recipe: WriteRecipe, forks: ForkServer, tmp_path: Path
) -> None:
    recipe = write_recipe(sequences={"names": [FIRST]})
    one = run(recipe)
    done = forks.run_ranks(2, "-m", "scal3r_train.cli", "eval", recipe, f"output_dir={tmp_path / 'two'}")
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


def test_a_method_that_always_fails_is_an_error_with_a_report(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(protocol={"image_hw": [27, 42]})
    with pytest.raises(UserError, match=r"method scal3r failed on all 2 sequences, first: images would be"):
        pipeline.main(recipe, [])
    assert "2 failures, listed in the report" in capsys.readouterr().out
    assert "no multiple of the model" in (tmp_path / "out" / "report.html").read_text()
