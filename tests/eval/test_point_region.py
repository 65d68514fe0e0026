"""True depth that ends at a distance: what lies beyond counts for neither cloud. A street, in closed form."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scal3r_eval import score_points as score_points_module
from scal3r_eval.point_source import CameraRegion
from scal3r_eval.recipe import PointProtocol, SequenceSettings
from scal3r_eval.score_points import score_point_files
from scal3r_eval.score_sequence_points import score_sequence_points
from scal3r_eval.sequences import choose_frames
from scal3r_train.config import UserError
from scal3r_train.data.index.index import write_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.icp import IcpResult
from tests.eval.test_score_points import write_cloud

LENGTH, LIMIT, NUM_SEEN = 250, 80.5, 82  # cameras stand at z = 0, 1 and 2: the last sees points to 82.5
NUM_BEYOND = LENGTH - NUM_SEEN


@pytest.fixture
def street(tmp_path: Path) -> SequenceRecord:
    """Points at z = 1, 2, .. 250 m, all on the axis of three cameras (as good as: 1e-7 of it)."""
    for frame in range(3):
        depth = np.arange(1, LENGTH + 1, dtype=np.float32)[None] - frame
        np.save(tmp_path / f"{frame}.npy", np.where(depth > 0, depth, 0))
    poses = np.tile(np.eye(3, 4), (3, 1, 1))
    poses[:, 2, 3] = [0, -1, -2]
    return SequenceRecord(
        dataset="street",
        sequence_id="street",
        root=tmp_path,
        image=tuple(f"{frame}.png" for frame in range(3)),
        image_size=np.full((3, 2), [1, LENGTH], np.int64),
        timestamp=np.arange(3.0),
        depth=tuple(f"{frame}.npy" for frame in range(3)),
        depth_codec="npy",
        camera_model="pinhole",
        intrinsics=np.tile([1e9, 1e9, 125, 0.5], (3, 1)),
        cam_from_world=poses,
        max_depth=LIMIT,
    )


def on_axis(shift: float = 0) -> np.ndarray:
    points = np.zeros((LENGTH, 3))
    points[:, 2] = np.arange(1, LENGTH + 1) + shift
    return points


def errors_of_the_protocol(record: SequenceRecord, folder: Path, **protocol: Any) -> dict[str, Any]:
    write_cloud(folder / "estimate.ply", on_axis())
    found, notes = score_sequence_points(
        folder / "estimate.ply",
        Sim3.identity(),
        choose_frames(record, SequenceSettings()),
        PointProtocol(threshold=0.5, voxel=0.25, **protocol),
        folder,
        folder,
    )
    return found | notes


def test_a_right_street_has_no_error_whichever_limit_cuts_the_truth(
    street: SequenceRecord, tmp_path: Path
) -> None:
    free = dataclasses.replace(street, max_depth=0.0)
    for record, protocol in ((street, {}), (free, {"max_depth": LIMIT}), (street, {"max_depth": 200.0})):
        errors = errors_of_the_protocol(record, tmp_path, **protocol)
        assert errors["chamfer_m"] == pytest.approx(0, abs=1e-4)
        assert errors["f1"] == 1
        assert errors["num_estimate_points_left_out"] == NUM_BEYOND
        assert errors["num_estimate_voxels"] == errors["num_ground_truth_voxels"] == NUM_SEEN
        assert errors["max_camera_distance_m"] == LIMIT
    errors = errors_of_the_protocol(free, tmp_path)
    assert errors["chamfer_m"] == pytest.approx(0, abs=1e-4)
    assert (errors["num_estimate_points_left_out"], errors["max_camera_distance_m"]) == (0, None)
    assert errors["num_ground_truth_voxels"] == LENGTH


def test_the_command_does_so_with_an_index_row_and_counts_all_beside_a_file(
    street: SequenceRecord, tmp_path: Path
) -> None:
    estimate = write_cloud(tmp_path / "estimate.ply", on_axis())
    write_index(tmp_path / "index.parquet", [street])
    options = {"threshold": 0.5, "voxel": 0.0, "align": "none"}
    errors = score_point_files(estimate, f"{tmp_path}/index.parquet#street", options)
    assert errors["chamfer_m"] == pytest.approx(0, abs=1e-4) and errors["f1"] == 1
    assert (errors["num_estimate_points"], errors["num_estimate_points_left_out"]) == (NUM_SEEN, NUM_BEYOND)
    # A file has no limit: the points beyond are 1, 2, .. 168 m off.
    truth = write_cloud(tmp_path / "truth.ply", on_axis()[:NUM_SEEN])
    errors = score_point_files(estimate, truth, options)
    assert errors["accuracy_m"] == pytest.approx(NUM_BEYOND * (NUM_BEYOND + 1) / 2 / LENGTH)
    assert errors["precision"] == NUM_SEEN / LENGTH
    assert (errors["num_estimate_points"], errors["num_estimate_points_left_out"]) == (LENGTH, 0)


def test_points_are_left_out_where_alignment_and_icp_put_them(
    street: SequenceRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a street 3 m too far ahead 3 points fewer are inside; once ICP has moved it back, all are."""
    write_index(tmp_path / "index.parquet", [street])
    estimate, truth = write_cloud(tmp_path / "e.ply", on_axis(3)), f"{tmp_path}/index.parquet#street"
    rough = score_point_files(estimate, truth, {"threshold": 0.5, "voxel": 0.0})
    assert rough["num_estimate_points_left_out"] == NUM_BEYOND + 3
    back = Sim3(Sim3.identity().scale, Sim3.identity().rotation, torch.tensor([0, 0, -3.0]).double())

    def moved_back(points: np.ndarray, *_: Any) -> IcpResult:
        assert len(points) == NUM_SEEN - 3
        return IcpResult(back, 1, True, len(points), 3.0, 0.0)

    monkeypatch.setattr(score_points_module, "refine_alignment", moved_back)
    fine = score_point_files(estimate, truth, {"threshold": 0.5, "voxel": 0.0, "icp": "se3"})
    assert fine["num_estimate_points_left_out"] == NUM_BEYOND
    assert fine["chamfer_m"] == pytest.approx(0, abs=1e-4)


def test_an_estimate_wholly_beyond_is_refused_by_name(street: SequenceRecord, tmp_path: Path) -> None:
    write_index(tmp_path / "index.parquet", [street])
    estimate = write_cloud(tmp_path / "e.ply", on_axis(100))
    with pytest.raises(UserError, match=r"no point of the estimate lies within max_depth = 80\.5 of a true"):
        score_point_files(estimate, f"{tmp_path}/index.parquet#street", {"threshold": 0.5})


def test_inside_is_at_most_the_reach_from_the_nearest_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scal3r_train.metrics.points.BLOCK_QUERIES", 7)
    random = np.random.default_rng(0)
    centres, points = random.normal(size=(9, 3)), 4 * random.normal(size=(500, 3))
    points[:2] = centres[0] + [[2.0, 0, 0], [2.0 + 1e-9, 0, 0]]
    centres[1:] -= 100
    distances = np.linalg.norm(points[:, None] - centres, axis=-1).min(axis=1)
    inside = CameraRegion(centres, 2.0).inside(points)
    assert inside[0] == (distances[0] <= 2.0) and not inside[1]
    assert (inside == (distances <= 2.0)).all() and 5 < inside.sum() < 400
