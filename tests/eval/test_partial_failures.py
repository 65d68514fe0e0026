"""What points or depth cannot be scored by takes no other measure along, is named, and is tried again."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scal3r_eval.recipe import PointProtocol, SequenceSettings
from scal3r_eval.results import SCORES_NAME, SequenceScores, read_scored
from scal3r_eval.score_sequence import score_sequence_depth
from scal3r_eval.sequences import choose_frames
from scal3r_eval.summary import summarise
from scal3r_eval.truth_cloud import truth_cloud, truth_files_sha256
from scal3r_train.config import UserError
from scal3r_train.data.camera.resize import ResizeRule
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.sequence import PackedFrames, SequenceRecord
from scal3r_train.metrics.logged import EVALUATION, described_metric
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.scene import depth_path, read_depth, write_depth
from tests.eval.conftest import WriteRecipe
from tests.eval.evaluating import FIRST, SECOND, ate, run, truth_of
from tests.eval.test_score_points import write_cloud

POINTS = {"threshold": 0.5, "voxel": 0.25, "max_depth": 30.0}


@pytest.fixture
def own_towns(towns: Path, tmp_path: Path) -> Path:
    """Return the index of a copy of the towns that a test may damage."""
    shutil.copytree(towns.parent, tmp_path / "towns")
    return tmp_path / "towns" / towns.name


def damaged(content: bytes, kind: str) -> bytes:
    return content[: len(content) // 2] if kind == "half" else b""


def rewritten(index: Path, **changes: Any) -> None:
    """Write the rows of an index again with some fields changed."""
    loaded = load_index(index)
    records = [dataclasses.replace(loaded[number], **changes) for number in range(len(loaded))]
    index.unlink()
    write_index(index, records)


def test_a_damaged_depth_file_costs_points_and_depth_of_its_sequence_alone(
    write_recipe: WriteRecipe, own_towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_index(own_towns).find(SECOND)
    file = record.root / record.depth[4]
    content = file.read_bytes()
    recipe = write_recipe(
        benchmark={"index": str(own_towns)},
        protocol={"image_hw": [28, 42], "points": POINTS, "depth": "per_sequence"},
    )
    good = run(recipe)
    assert good.failures == ()
    # An evaluation with all three parts writes no name that docs/logged_metrics.md lacks.
    written = good.scores["scal3r"][FIRST][0].metrics
    assert {"ate_rmse_m", "f1", "depth_abs_rel"} < set(written)
    assert not [name for name in written if described_metric(name, EVALUATION) is None]
    picture = tmp_path / "out" / "scal3r" / SECOND / "point_errors.jpg"
    assert picture.is_file()
    file.write_bytes(damaged(content, "half"))
    results = run(recipe)
    assert not picture.exists(), "it belongs to scores that are no more"
    scores = results.scores["scal3r"][SECOND][0]
    assert scores.failure is None
    assert set(scores.partial_failures) == {"points", "depth"}
    assert not {"f1", "chamfer_m", "depth_abs_rel"} & set(scores.metrics)
    for name in (FIRST, SECOND):
        assert ate(results, "scal3r", name) == ate(good, "scal3r", name)
    assert results.summaries["scal3r"]["ate_rmse_m"] == good.summaries["scal3r"]["ate_rmse_m"]
    assert results.summaries["straight_line"] == good.summaries["straight_line"]
    assert [one["reason"].split(":")[0] for one in results.failures] == ["no points", "no depth"]
    assert all(file.name in one["reason"] and one["sequence"] == SECOND for one in results.failures)
    assert file.name in (tmp_path / "out" / "report.md").read_text()
    assert f"{SECOND}: ATE" in (said := capsys.readouterr().err) and "; no points: " in said
    file.write_bytes(content)
    mended = run(recipe)
    assert mended.failures == (), "failures in part are tried again"
    assert mended.scores["scal3r"][SECOND][0].metrics == good.scores["scal3r"][SECOND][0].metrics


def test_a_failure_in_part_counts_in_the_measures_it_lacks_alone() -> None:
    """Of two methods one has no points on one of two towns: it gets the worst valid Chamfer there, and its own ATE."""

    def scores(method: str, town: int, chamfer: float | None) -> SequenceScores:
        return SequenceScores(
            identity={},
            method=method,
            run=0,
            sequence=str(town),
            num_frames=9,
            num_poses=9,
            metrics={"ate_rmse_m": 1.0 + town} | ({} if chamfer is None else {"chamfer_m": chamfer}),
            partial_failures={"points": "ICP cannot start"} if chamfer is None else {},
        )

    values: dict[str, list[float | None]] = {"ours": [0.5, None], "other": [2.0, 3.0]}
    found = summarise(
        {
            name: {str(town): (scores(name, town, row[town]),) for town in (0, 1)}
            for name, row in values.items()
        }
    )["ours"]
    assert (found["ate_rmse_m"].mean, found["ate_rmse_m"].num_failures) == (1.5, 0)
    assert (found["chamfer_m"].mean, found["chamfer_m"].mean_of_valid) == ((0.5 + 3.0) / 2, 0.5)
    assert found["chamfer_m"].num_failures == 1


def test_such_scores_are_tried_again_even_when_nothing_changed(
    write_recipe: WriteRecipe,
    towns: Path,
    tmp_path: Path,
    calls: list[str],
) -> None:
    """An empty cloud, and one that ICP finds no partners in: the poses are those of the truth."""
    record = load_index(towns).find(FIRST)
    poses = Trajectory(truth_of(record, 14), torch.from_numpy(record.timestamp[:14]))
    clouds = {"empty": np.empty((0, 3)), "shifted": poses.world_from_cam[:, :, 3].numpy() - [0, 0, 20]}
    for folder, cloud in clouds.items():
        (tmp_path / folder).mkdir()
        write_trajectory(tmp_path / folder / f"{FIRST}.tum", poses, "tum")
        write_cloud(tmp_path / folder / f"{FIRST}.ply", cloud)
    recipe = write_recipe(
        sequences={"names": [FIRST]},
        protocol={"points": POINTS | {"icp": "se3", "icp_max_distance": 0.5}},
        methods={name: {"kind": "external", "folder": str(tmp_path / name)} for name in clouds},
    )
    results = run(recipe)
    for name, reason in {"empty": "the estimate has no points", "shifted": "ICP cannot start"}.items():
        assert ate(results, name, FIRST) == pytest.approx(0, abs=1e-6)
        assert reason in results.scores[name][FIRST][0].partial_failures["points"]
        kept = read_scored(tmp_path / "out" / name / FIRST / SCORES_NAME, SequenceScores)
        assert kept == results.scores[name][FIRST][0]
    calls.clear()
    run(recipe)
    assert calls == [f"score {name} {FIRST}" for name in clouds]


def test_points_are_left_out_where_the_index_has_no_depth(
    write_recipe: WriteRecipe,
    own_towns: Path,
    calls: list[str],
) -> None:
    """Nobody can be scored by what is not known: no failure, and nothing to try again."""
    rewritten(own_towns, depth=(), depth_codec="")
    recipe = write_recipe(
        benchmark={"index": str(own_towns)},
        sequences={"names": [FIRST]},
        protocol={"image_hw": [28, 42], "points": POINTS, "depth": "per_sequence"},
    )
    results = run(recipe)
    assert results.failures == ()
    scores = results.scores["scal3r"][FIRST][0]
    assert scores.notes["points_skipped"] == "the index has no true depth for this sequence"
    assert "f1" not in scores.metrics and scores.metrics["ate_rmse_m"] is not None
    calls.clear()
    run(recipe)
    assert calls == []


CHANGES: dict[str, dict[str, Any]] = {
    "root": {"root": Path("/elsewhere")},
    "codec": {"depth_codec": "uint16_mm"},
    "scale": {"depth_scale": 2.0},
    "max_depth": {"max_depth": 40.0},
    "percentile": {"max_depth_percentile": 95.0},
    "mask": {"mask": ("m.png",) * 20},
    "sky_mask": {"sky_mask": ("m.png",) * 20},
    "mask_rule": {"mask_rule": "below 3"},
    "sky_mask_rule": {"sky_mask_rule": "from 3"},
    "camera": {"camera_model": "opencv"},
    "intrinsics": {"intrinsics": np.full((20, 4), 30.0)},
    "no_intrinsics": {"intrinsics": None},
    "distortion": {"distortion": np.full((20, 4), 0.1)},
    "pixel_centre": {"pixel_centre": "integer"},
    "turns": {"quarter_turns": 1},
    "packed": {"packed": PackedFrames("packed.parquet", 0)},
}


@pytest.fixture
def record(own_towns: Path) -> SequenceRecord:
    return load_index(own_towns).find(FIRST)


def identity_of(record: SequenceRecord) -> str:
    return truth_files_sha256(choose_frames(record, SequenceSettings(stop=14)))


@pytest.mark.parametrize("name", CHANGES)
def test_the_identity_of_the_truth_holds_whatever_depth_is_read_by(record: SequenceRecord, name: str) -> None:
    assert identity_of(dataclasses.replace(record, **CHANGES[name])) != identity_of(record)
    assert identity_of(dataclasses.replace(record)) == identity_of(record)


def test_the_identity_of_the_truth_holds_the_files_of_the_frames_that_are_used(
    record: SequenceRecord,
) -> None:
    before = identity_of(record)
    (record.root / record.depth[14]).write_bytes(b"")
    assert identity_of(record) == before
    (record.root / record.depth[13]).write_bytes(b"")
    assert identity_of(record) != before
    (record.root / "mask.png").write_bytes(b"1")
    masked = dataclasses.replace(record, mask=("mask.png",) * 20)
    before = identity_of(masked)
    (record.root / "mask.png").write_bytes(b"12")
    assert identity_of(masked) != before


def test_scores_are_made_again_when_the_truth_is_read_otherwise(
    write_recipe: WriteRecipe, own_towns: Path, tmp_path: Path
) -> None:
    """Half of every depth in the index: points and depth have other errors, without removing anything."""
    recipe = write_recipe(
        benchmark={"index": str(own_towns)},
        sequences={"names": [FIRST]},
        protocol={"image_hw": [28, 42], "points": POINTS, "depth": "per_sequence"},
    )
    before = run(recipe).scores["scal3r"][FIRST][0].metrics
    rewritten(own_towns, depth_scale=0.5)
    after = run(recipe).scores["scal3r"][FIRST][0].metrics
    assert after["chamfer_m"] != before["chamfer_m"]
    assert after["ate_rmse_m"] == before["ate_rmse_m"]


@pytest.mark.parametrize("kind", ["half", "empty"])
def test_a_truncated_cache_of_true_points_is_made_anew(
    record: SequenceRecord, tmp_path: Path, kind: str
) -> None:
    sequence, protocol = choose_frames(record, SequenceSettings(stop=3)), PointProtocol(**POINTS)
    cache = tmp_path / "truth.npz"
    points = truth_cloud(sequence, protocol, cache)
    content = cache.read_bytes()
    cache.write_bytes(damaged(content, kind))
    np.testing.assert_array_equal(truth_cloud(sequence, protocol, cache), points)
    assert len(cache.read_bytes()) == len(content)


@pytest.mark.parametrize("kind", ["half", "empty"])
def test_a_truncated_depth_file_of_a_scene_is_a_user_error(tmp_path: Path, kind: str) -> None:
    write_depth(tmp_path, 0, np.ones((4, 6)), np.ones((4, 6)))
    path = depth_path(tmp_path, 0)
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(UserError, match=r"000000\.npz is missing or damaged"):
        read_depth(tmp_path, 0)


def test_true_depth_is_sized_as_the_frames_of_the_scene_were(
    write_recipe: WriteRecipe, towns: Path, tmp_path: Path
) -> None:
    """28 x 42 to a width of 28: the rule presses 19 rows into 14, a plain size would cut 5 of them off."""
    rule = ResizeRule(kind="width", size=28, multiple=14)
    recipe = write_recipe(
        sequences={"names": [FIRST]},
        protocol={"image_hw": None, "resize": rule.model_dump(), "depth": "per_sequence"},
        methods={"scal3r": {"kind": "scal3r"}},
    )
    assert run(recipe).failures == ()
    scene = tmp_path / "out" / "scal3r" / FIRST / "scene"
    sequence = choose_frames(load_index(towns).find(FIRST), SequenceSettings(max_frames=14))
    assert read_depth(scene, 0).shape == (14, 28)
    for place, frame in enumerate(sequence.frame_indices):
        true = read_frames(sequence.record, [frame], rule).depth
        assert true is not None
        write_depth(scene, place, true[0].numpy(), np.ones((14, 28)))
    errors = score_sequence_depth(scene, sequence, "per_sequence")
    assert errors["depth_abs_rel"] == pytest.approx(0, abs=1e-6)
    assert errors["depth_delta_1"] == 1
