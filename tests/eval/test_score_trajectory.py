"""`scal3r score trajectory` reproduces published numbers and refuses nonsense in one line."""

import copy
import json
from pathlib import Path

import pytest
import torch
from evo.core import metrics
from evo.core.sync import associate_trajectories
from evo.core.trajectory import PosePath3D
from evo.tools import file_interface

from scal3r_eval.score_trajectory import main, score_files
from scal3r_train.config import UserError
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.scene import load_scene
from tests.forking import ForkServer
from tests.scene.visualization.example_scene import write_example_scene


@pytest.fixture(scope="module")
def trajectories(shared_dir: Path) -> Path:
    return shared_dir / "data" / "trajectories"


def test_kitti_00_orb(trajectories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(trajectories / "KITTI_00_ORB.txt", trajectories / "KITTI_00_gt.txt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    score = json.loads(lines[0])
    assert score["ate_rmse_m"] == pytest.approx(0.93771, abs=5e-6)
    assert score["rte_m_per_100m"] == pytest.approx(0.62771, abs=5e-6)
    assert score["rre_deg_per_100m"] == pytest.approx(0.25333, abs=5e-6)
    assert (score["num_poses"], score["align"], score["num_unmatched_estimate"]) == (4541, "sim3", 0)


@pytest.mark.parametrize(("limit", "expected"), [(0.01, 0.006123), (0.02, 0.006187)])
def test_fr2_desk_orb(trajectories: Path, limit: float, expected: float) -> None:
    score = score_files(
        trajectories / "fr2_desk_ORB.txt", trajectories / "fr2_desk_groundtruth.txt", "sim3", limit
    )
    assert score["ate_rmse_m"] == pytest.approx(expected, abs=5e-7)
    assert score["rre_deg_per_100m"] is None
    assert score["rte_m_per_100m"] is None
    assert score["num_poses"] + score["num_unmatched_estimate"] == 2893


def evo_ate(estimate: PosePath3D, truth: PosePath3D) -> float:
    estimate = copy.deepcopy(estimate)
    estimate.align(truth, correct_scale=True)
    metric = metrics.APE(metrics.PoseRelation.translation_part)
    metric.process_data((truth, estimate))
    return float(metric.get_statistic(metrics.StatisticsType.rmse))


def test_kitti_00_as_evo_scores_it(trajectories: Path) -> None:
    files = [trajectories / "KITTI_00_ORB.txt", trajectories / "KITTI_00_gt.txt"]
    estimate, truth = (file_interface.read_kitti_poses_file(str(path)) for path in files)
    assert score_files(*files)["ate_rmse_m"] == pytest.approx(evo_ate(estimate, truth), abs=1e-6)


@pytest.mark.parametrize("limit", [0.01, 0.02])
def test_fr2_desk_as_evo_scores_it(trajectories: Path, limit: float) -> None:
    files = [trajectories / "fr2_desk_ORB.txt", trajectories / "fr2_desk_groundtruth.txt"]
    estimate, truth = (file_interface.read_tum_trajectory_file(str(path)) for path in files)
    truth, estimate = associate_trajectories(truth, estimate, max_diff=limit)
    score = score_files(*files, "sim3", limit)
    assert score["num_poses"] == estimate.num_poses
    assert score["ate_rmse_m"] == pytest.approx(evo_ate(estimate, truth), abs=1e-6)


def test_the_order_of_arguments_is_estimate_then_truth(trajectories: Path) -> None:
    files = (trajectories / "KITTI_00_ORB.txt", trajectories / "KITTI_00_gt.txt")
    forth, back = score_files(*files), score_files(*reversed(files))
    assert forth["scale"] * back["scale"] == pytest.approx(1, abs=1e-3)
    assert forth["scale"] > 1.004


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    for align, limit in (("affine", 0.01), ("sim3", -1.0), ("sim3", float("nan"))):
        with pytest.raises(UserError):
            score_files(tmp_path, tmp_path, align, limit)


def test_a_malformed_file_ends_the_command_with_one_line_and_code_2(
    forks: ForkServer, tmp_path: Path
) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("0 0 0 0 0 0 0 1\n1 2 3\n")
    done = forks.run("-m", "scal3r_train.cli", "score", "trajectory", path, path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "bad.txt, line 2" in done.stderr


def test_a_scene_folder_is_scored_by_the_numbers_of_its_frames(tmp_path: Path) -> None:
    """Against KITTI's files too, which pair with the frames of the input: every second one is in this scene."""
    folder = write_example_scene(tmp_path / "scene")
    scene = load_scene(folder)
    numbers = scene.info.frame_indices
    truth = scene.world_from_cam.repeat_interleave(2, dim=0).clone()
    truth[list(numbers)] = scene.world_from_cam
    write_trajectory(tmp_path / "truth.txt", Trajectory(truth, None), "kitti")
    found = score_files(folder, tmp_path / "truth.txt", "se3")
    assert found["num_poses"] == len(numbers) and found["ate_rmse_m"] == pytest.approx(0, abs=1e-9)
    unmatched = found["num_unmatched_estimate"], found["num_unmatched_ground_truth"]
    assert unmatched == (0, len(truth) - len(numbers)), "the frames between have a true pose too"
    write_trajectory(tmp_path / "cut.txt", Trajectory(truth[: numbers[-1] + 1], None), "kitti")
    with pytest.raises(
        UserError, match="has 79 frames, the scene's input had 80: it may be of another video"
    ):
        score_files(folder, tmp_path / "cut.txt", "se3")
    assert score_files(folder, tmp_path / "cut.txt", "se3", frames_match="force")["num_poses"] == len(numbers)
    truth[numbers[1], 0, 3] += 1.0
    write_trajectory(tmp_path / "truth.txt", Trajectory(truth, None), "kitti")
    assert score_files(folder, tmp_path / "truth.txt", "none")["ate_rmse_m"] == pytest.approx(
        1 / len(numbers) ** 0.5
    )
    write_trajectory(tmp_path / "truth.tum", Trajectory(truth[:1], torch.tensor([1e9])), "tum")
    with pytest.raises(UserError, match=r"truth\.tum"):
        score_files(folder, tmp_path / "truth.tum")
