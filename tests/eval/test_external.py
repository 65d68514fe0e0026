"""Other systems beside ours: geometry against closed forms, and what they leave for an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_data_tools import synth
from scal3r_eval.external.command import ExternalSettings, run_external
from scal3r_eval.external.opencv_odometry import OdometrySettings, ground_distance, odometry, relative_pose
from scal3r_eval.external.pycolmap_mapper import between
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory_io import read_trajectory

INTRINSICS = np.array([200.0, 210.0, 160.0, 120.0])


def _road_and_walls(rng: np.random.Generator, camera_height: float) -> np.ndarray:
    """Points [M, 3] of a level road and of two walls beside it, in a camera that looks along it."""
    road = np.stack([rng.uniform(-4, 4, 150), np.full(150, camera_height), rng.uniform(3, 30, 150)], axis=1)
    walls = np.stack([rng.choice([-5.0, 5.0], 150), rng.uniform(-4, 1, 150), rng.uniform(5, 30, 150)], axis=1)
    return np.concatenate([road, walls])


def _pixels(points: np.ndarray) -> np.ndarray:
    return points[:, :2] / points[:, 2:] * INTRINSICS[:2] + INTRINSICS[2:]


def test_the_step_and_the_road_are_found_exactly() -> None:
    points = _road_and_walls(np.random.default_rng(0), camera_height=1.6)
    rotation = Rotation.from_euler("yx", [4, 1], degrees=True).as_matrix()
    translation = np.array([0.1, -0.02, -1.2])
    found = relative_pose(
        _pixels(points), _pixels(points @ rotation.T + translation), INTRINSICS, INTRINSICS, 0.5
    )
    assert found is not None
    turned, direction, triangulated = found
    np.testing.assert_allclose(turned, rotation, atol=1e-5)
    np.testing.assert_allclose(direction, translation / np.linalg.norm(translation), atol=1e-5)
    distance = ground_distance(triangulated)
    assert distance == pytest.approx(1.6 / np.linalg.norm(translation), rel=1e-3)


def test_no_road_no_length() -> None:
    points = _road_and_walls(np.random.default_rng(0), camera_height=1.6)
    walls = points[150:]
    assert ground_distance(walls) is None
    assert ground_distance(points[:150] * [1, -1, 1]) is None


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index of one town with pixels enough to follow."""
    folder = tmp_path_factory.mktemp("town") / "towns"
    synth.main(
        folder, ["num_sequences=1", "num_frames=16", "seed=3", "height=120", "width=180", "num_workers=1"]
    )
    return folder / "index.parquet"


def test_odometry_follows_a_town(town: Path, tmp_path: Path) -> None:
    record = load_index(town)[0]
    assert run_external([str(town), str(tmp_path)], "opencv_odometry", OdometrySettings, odometry) == 0
    path = tmp_path / f"{record.sequence_id}.tum"
    estimate = read_trajectory(path)
    assert estimate.timestamps is not None
    np.testing.assert_allclose(estimate.timestamps, record.timestamp)
    assert json.loads((tmp_path / f"{record.sequence_id}.resources.json").read_text())["seconds"] > 0
    cam_from_world = np.asarray(record.cam_from_world).reshape(-1, 3, 4)
    rotations = cam_from_world[:, :, :3]
    truth = np.stack([-r.T @ t for r, t in zip(rotations, cam_from_world[:, :, 3], strict=True)])
    steps = np.linalg.norm(np.diff(truth, axis=0), axis=1)
    relative = rotations[1:] @ rotations[:-1].transpose(0, 2, 1)
    ours = estimate.world_from_cam[:, :, :3].numpy().transpose(0, 2, 1)
    found = ours[1:] @ ours[:-1].transpose(0, 2, 1)
    errors = Rotation.from_matrix(relative.transpose(0, 2, 1) @ found).magnitude()
    assert (
        np.degrees(np.median(errors))
        < 0.2
        < 0.5 * np.degrees(np.median(Rotation.from_matrix(relative).magnitude()))
    )
    lengths = np.linalg.norm(np.diff(estimate.world_from_cam[:, :, 3].numpy(), axis=0), axis=1)
    ratios = lengths / steps
    assert np.std(np.log(ratios / np.median(ratios))) < 0.3


def _half(record: SequenceRecord, frames: Any, settings: ExternalSettings) -> tuple[np.ndarray, np.ndarray]:
    if record.num_frames < 3:
        raise UserError("too short")
    places = np.arange(0, len(frames), 2)
    return places, np.tile(np.eye(4)[:3], (len(places), 1, 1))


def test_what_is_there_stays_and_failures_leave_no_file(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = load_index(towns)[1].sequence_id
    only = [str(towns), str(tmp_path), f"sequences=[{name}]"]
    assert run_external([*only, "max_frames=2"], "other", ExternalSettings, _fails) == 1
    assert f"{name}: failed: lost" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tum"))
    assert run_external(only, "other", ExternalSettings, _half) == 0
    assert len(read_trajectory(tmp_path / f"{name}.tum")) == 10
    assert run_external(only, "other", ExternalSettings, _fails) == 0
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"\.tum was made with other settings .*overwrite=true for all"):
        run_external([*only, "max_frames=4"], "other", ExternalSettings, _half)
    assert run_external([*only, "max_frames=4", "overwrite=true"], "other", ExternalSettings, _half) == 0
    assert len(read_trajectory(tmp_path / f"{name}.tum")) == 2
    other = load_index(towns)[0].sequence_id
    with pytest.raises(UserError, match=f"{name}.tum was made with other settings"):
        run_external([*only[:2], f"sequences=[{other}]", "overwrite=true"], "other", ExternalSettings, _half)
    only.append("max_frames=4")
    assert run_external([*only, "overwrite=true"], "other", ExternalSettings, _fails) == 1
    assert not list(tmp_path.glob("*.tum"))
    with pytest.raises(UserError, match="usage"):
        run_external([str(towns)], "other", ExternalSettings, _half)
    with pytest.raises(UserError, match="nowhere"):
        run_external([*only[:2], "sequences=[nowhere]"], "other", ExternalSettings, _half)


def _fails(record: SequenceRecord, frames: Any, settings: ExternalSettings) -> tuple[np.ndarray, np.ndarray]:
    raise UserError("lost")


def test_frames_between_mapped_ones() -> None:
    turned = Rotation.from_euler("y", [[0.0], [40.0], [40.0]], degrees=True).as_matrix()
    centres = np.array([[0.0, 0, 0], [4, 0, 2], [9, 9, 9]])
    poses = np.concatenate([turned, centres[:, :, None]], axis=2)
    places, found = between(np.array([2, 4, 9]), poses, 2)
    np.testing.assert_array_equal(places, [2, 3, 4, 9])
    np.testing.assert_allclose(found[1, :, 3], [2, 0, 1])
    np.testing.assert_allclose(found[1, :, :3], Rotation.from_euler("y", 20, degrees=True).as_matrix())
    np.testing.assert_allclose(found[[0, 2, 3]], poses)
