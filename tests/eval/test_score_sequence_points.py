"""True points come from depth and cameras, and clouds are compared with them after the cameras' alignment."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

from scal3r_eval.recipe import PointProtocol, SequenceSettings
from scal3r_eval.score_sequence_points import score_sequence_points
from scal3r_eval.sequences import EvalSequence, choose_frames
from scal3r_eval.truth_cloud import truth_cloud
from scal3r_train.data.index.index import load_index
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.scene.ply import write_ply

PROTOCOL = PointProtocol(threshold=0.5, voxel=0.25, max_depth=30.0)


@pytest.fixture(scope="module")
def sequence(towns: Path) -> EvalSequence:
    return choose_frames(load_index(towns)[0], SequenceSettings(start=2, stop=14, stride=3))


@pytest.fixture
def truth(sequence: EvalSequence, tmp_path: Path) -> np.ndarray:
    return truth_cloud(sequence, PROTOCOL, tmp_path / "truth.npz")


def test_true_points_are_those_of_every_pixel_with_depth(sequence: EvalSequence, truth: np.ndarray) -> None:
    """Pixel by pixel, from the files: every one has a mean of its own voxel, and no voxel is without a pixel."""
    record = sequence.record
    assert sequence.frame_indices == (2, 5, 8, 11)
    assert record.intrinsics is not None and record.cam_from_world is not None
    points, centres = [], sequence.truth[:, :, 3].numpy()
    for frame in sequence.frame_indices:
        depth = np.asarray(Image.open(record.root / record.depth[frame])).astype(float) / 100
        fx, fy, cx, cy = record.intrinsics[frame]
        rotation, offset = record.cam_from_world[frame][:, :3], record.cam_from_world[frame][:, 3]
        for row in range(depth.shape[0]):
            for column in range(depth.shape[1]):
                z = depth[row, column]
                local = np.array([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z])
                point = rotation.T @ (local - offset)
                if 0 < z <= 30 and np.linalg.norm(centres - point, axis=1).min() <= 30:
                    points.append(point)
    cells = np.floor(np.array(points) / 0.25).astype(int)
    expected: dict[tuple[int, ...], list[np.ndarray]] = {}
    for cell, point in zip(cells.tolist(), points, strict=True):
        expected.setdefault(tuple(cell), []).append(point)
    means = np.array([np.mean(inside, axis=0) for inside in expected.values()])
    assert len(means) == pytest.approx(len(truth), rel=0.01) and len(truth) > 200
    # The road is at height 0, a face of voxels: rounding puts some of its points on either side.
    for distance, _ in (cKDTree(truth).query(means), cKDTree(means).query(truth)):
        assert np.quantile(distance, 0.97) < 5e-6 and distance.max() < 0.25


def test_true_points_are_kept_and_made_again_when_the_protocol_changes(
    sequence: EvalSequence, truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = truth_cloud(sequence, PROTOCOL.model_copy(update={"voxel": 1.0}), tmp_path / "truth.npz")
    assert len(coarse) < len(truth) / 2
    monkeypatch.setattr("scal3r_eval.truth_cloud._fused", None)
    kept = truth_cloud(sequence, PROTOCOL.model_copy(update={"voxel": 1.0}), tmp_path / "truth.npz")
    assert (kept == coarse).all()


def scored(cloud: np.ndarray, sim3: Sim3, sequence: EvalSequence, folder: Path) -> dict[str, float | None]:
    number = len(cloud)
    write_ply(folder / "c.ply", cloud, np.zeros((number, 3), np.uint8), np.ones(number, np.float32))
    scores, notes = score_sequence_points(folder / "c.ply", sim3, sequence, PROTOCOL, folder, folder)
    assert notes["voxel_size_m"] == 0.25 and notes["icp"] is None
    return scores


def test_the_truth_in_another_world_is_perfect(
    sequence: EvalSequence, truth: np.ndarray, tmp_path: Path
) -> None:
    angle = torch.tensor(0.3, dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[0, 0] = rotation[2, 2] = angle.cos()
    rotation[0, 2], rotation[2, 0] = angle.sin(), -angle.sin()
    offset = torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    sim3 = Sim3(torch.tensor(3.0, dtype=torch.float64), rotation, offset)
    elsewhere = sim3.inverse().apply(torch.from_numpy(truth)).numpy()
    scores = scored(elsewhere, sim3, sequence, tmp_path)
    assert scores["chamfer_m"] == pytest.approx(0, abs=1e-5)
    assert scores["f1"] == 1
    picture = np.asarray(Image.open(tmp_path / "point_errors.jpg"))
    assert picture.shape == (480, 760, 3)


def test_a_shift_and_a_missing_half_show(sequence: EvalSequence, truth: np.ndarray, tmp_path: Path) -> None:
    far = sequence.truth[0, :, 3].numpy() - [[0, 0, 20]]
    scores = scored(np.concatenate([truth, far]), Sim3.identity(), sequence, tmp_path)
    number, distance = len(truth), np.linalg.norm(truth - far, axis=1).min()
    assert distance > 10
    assert scores["accuracy_m"] == pytest.approx(distance / (number + 1), abs=1e-5)
    assert scores["precision"] == pytest.approx(number / (number + 1)) and scores["recall"] == 1
    near_side = truth[truth[:, 2] < np.median(truth[:, 2])]
    half = scored(near_side, Sim3.identity(), sequence, tmp_path)
    assert half["precision"] == 1
    distances = np.linalg.norm(truth[:, None] - near_side[None], axis=-1).min(axis=1)
    assert half["recall"] == pytest.approx(float((distances < 0.5).mean()))
    assert half["completeness_m"] == pytest.approx(float(distances.mean()), abs=1e-5)


def test_errors_are_red_where_they_are(sequence: EvalSequence, truth: np.ndarray, tmp_path: Path) -> None:
    """Blue where the cloud is right, red where it lies far below (what is above the cameras is cut away)."""
    scored(truth, Sim3.identity(), sequence, tmp_path)
    right = np.asarray(Image.open(tmp_path / "point_errors.jpg")).astype(int)
    scored(truth - [0, 0, 12.0], Sim3.identity(), sequence, tmp_path)
    wrong = np.asarray(Image.open(tmp_path / "point_errors.jpg")).astype(int)

    def count(picture: np.ndarray, channel: int) -> int:
        others = picture.max(-1) - picture[..., channel]
        return int(((picture[..., channel] > 90) & (others == 0) & (np.ptp(picture, axis=-1) > 60)).sum())

    assert count(right, 2) > 20 and count(right, 0) == 0
    assert count(wrong, 0) > 20
