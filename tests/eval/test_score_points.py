"""`scal3r score points`: alignment by cameras and by ICP, thinning, true clouds from depth, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scal3r_eval.point_source import DepthCloud, open_points
from scal3r_eval.score_points import main, score_point_files
from scal3r_eval.score_trajectory import score_files
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_frame_depth
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.ply import write_ply
from tests.forking import ForkServer
from tests.geometry.test_sim3 import random_sim3
from tests.metrics.test_icp import surface
from tests.metrics.test_trajectory import drive


def write_cloud(path: Path, points: np.ndarray) -> str:
    write_ply(path, points, np.zeros((len(points), 3), np.uint8), np.ones(len(points)))
    return str(path)


def write_poses(path: Path, world_from_cam: torch.Tensor) -> str:
    write_trajectory(path, Trajectory(world_from_cam, None), "kitti")
    return str(path)


def apply(sim3: Sim3, points: np.ndarray) -> np.ndarray:
    return sim3.apply(torch.from_numpy(points)).numpy()


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Sim3, dict[str, str]]:
    """A true cloud and its copy in another world, with cameras: the motion, and files by name."""
    truth, poses, estimate_from_truth = surface(3000, 0), drive(30, 0.5, wobble=0.1), random_sim3(7)
    return estimate_from_truth.inverse(), {
        "est": write_cloud(tmp_path / "est.ply", apply(estimate_from_truth, truth)),
        "gt": write_cloud(tmp_path / "gt.ply", truth),
        "est_trajectory": write_poses(
            tmp_path / "est.txt", estimate_from_truth.apply_to_world_from_cam(poses)
        ),
        "gt_trajectory": write_poses(tmp_path / "gt.txt", poses),
    }


def options(files: dict[str, str], **others: Any) -> dict[str, Any]:
    return {name: files[name] for name in ("est_trajectory", "gt_trajectory")} | {"threshold": 0.05, **others}


@pytest.mark.parametrize("voxel", [0.0, 0.2])
def test_cameras_align_the_points(moved: tuple[Sim3, dict[str, str]], voxel: float) -> None:
    motion, files = moved
    score = score_point_files(files["est"], files["gt"], options(files, voxel=voxel))
    assert score["chamfer_m"] < (2e-3 if voxel else 1e-5)  # a few points of float32 fall into the next voxel
    assert score["f1"] > 0.98
    assert (score["num_estimate_points"], score["num_ground_truth_points"]) == (3000, 3000)
    assert score["voxel_size_m"] == voxel
    if voxel:
        assert score["num_estimate_voxels"] == pytest.approx(score["num_ground_truth_voxels"], rel=0.01)
        assert score["num_estimate_voxels"] < 2500
    else:
        assert score["num_estimate_voxels"] == 3000
    assert (score["align"], score["num_poses"], score["icp"]) == ("sim3", 30, None)
    assert score["scale"] == pytest.approx(motion.scale.item())
    np.testing.assert_allclose(score["truth_from_estimate"], motion.matrix(), atol=1e-9)


def test_thinning_is_done_in_the_units_of_the_truth(moved: tuple[Sim3, dict[str, str]]) -> None:
    """The default is a tenth of the threshold, whatever the scale of the estimate."""
    motion, files = moved
    assert abs(motion.scale.item() - 1) > 0.1
    score = score_point_files(files["est"], files["gt"], options(files, threshold=5.0))
    assert score["voxel_size_m"] == 0.5
    true_voxels = len(np.unique(np.floor(surface(3000, 0).astype(np.float32) / 0.5), axis=0))
    assert score["num_ground_truth_voxels"] == true_voxels
    assert score["num_estimate_voxels"] == pytest.approx(true_voxels, rel=0.01)


def test_without_cameras_points_stay_where_they_are(moved: tuple[Sim3, dict[str, str]]) -> None:
    _, files = moved
    score = score_point_files(files["est"], files["gt"], {"threshold": 0.05})
    assert (score["align"], score["num_poses"], score["scale"]) == ("none", 0, 1)
    assert score["chamfer_m"] > 0.5
    assert score_point_files(files["gt"], files["gt"], {"threshold": 0.05})["chamfer_m"] == 0


def test_icp_mends_a_bad_alignment(tmp_path: Path) -> None:
    """Cameras are 3 % off in scale; read again after ICP, the cloud is thinned where it now lies."""
    truth = surface(3000, 0)
    estimate, gt = (
        write_cloud(tmp_path / "e.ply", 1.03 * truth + 0.05),
        write_cloud(tmp_path / "g.ply", truth),
    )
    rough = score_point_files(estimate, gt, {"threshold": 0.05, "voxel": 0.0})
    rigid = score_point_files(estimate, gt, {"threshold": 0.05, "voxel": 0.0, "icp": "se3"})
    fine = score_point_files(
        estimate, gt, {"threshold": 0.05, "voxel": 0.0, "icp": "sim3", "icp_max_distance": 1.0}
    )
    assert rough["chamfer_m"] > rigid["chamfer_m"] > 20 * fine["chamfer_m"]
    assert fine["scale"] == pytest.approx(1 / 1.03, rel=1e-3)
    assert fine["f1"] > 0.999
    assert fine["num_estimate_points"] == 3000
    assert (fine["icp"]["mode"], fine["icp"]["converged"], fine["icp"]["max_distance_m"]) == (
        "sim3",
        True,
        1.0,
    )
    assert rigid["icp"]["max_distance_m"] == 0.5
    assert rigid["scale"] == 1


def reference(record: SequenceRecord) -> list[list[float]]:
    """Points of all pixels with depth, pixel by pixel."""
    assert record.intrinsics is not None
    assert record.cam_from_world is not None
    points = []
    for frame in range(record.num_frames):
        depth = read_frame_depth(record, frame)
        assert depth is not None
        shift = 0.5 if record.pixel_centre == "half" else 0.0
        fx, fy, cx, cy = record.intrinsics[frame].tolist()
        rotation, translation = record.cam_from_world[frame, :, :3], record.cam_from_world[frame, :, 3]
        for row, column in zip(*np.nonzero(depth > 0), strict=True):
            z = float(depth[row, column])
            in_camera = np.array([(column + shift - cx) / fx * z, (row + shift - cy) / fy * z, z])
            points.append((rotation.T @ (in_camera - translation)).tolist())
    return points


def test_depth_maps_become_points(towns: Path) -> None:
    record = load_index(towns)[0]
    blocks = list(DepthCloud(record).blocks())
    assert len(blocks) == record.num_frames
    np.testing.assert_allclose(np.concatenate(blocks), reference(record), atol=1e-9)


def test_depth_of_another_size_than_the_image(towns: Path) -> None:
    record = load_index(towns)[0]
    assert record.intrinsics is not None
    larger = dataclasses.replace(record, image_size=2 * record.image_size, intrinsics=2 * record.intrinsics)
    assert record.pixel_centre == "half"
    for ours, true in zip(DepthCloud(larger).blocks(), DepthCloud(record).blocks(), strict=True):
        np.testing.assert_allclose(ours, true, atol=1e-9)


def test_an_index_row_is_truth_for_points_and_cameras_and_a_scene_folder_is_an_estimate(
    towns: Path, tmp_path: Path
) -> None:
    index = load_index(towns)
    record, source = index[1], f"{towns}#{index.sequence_ids[1]}"
    assert record.cam_from_world is not None
    motion = random_sim3(3)
    cameras = invert_extrinsics(torch.from_numpy(record.cam_from_world))
    scene = tmp_path / "scene"
    scene.mkdir()
    write_cloud(scene / "points.ply", apply(motion, np.concatenate(list(DepthCloud(record).blocks()))))
    times = torch.from_numpy(record.timestamp)
    write_trajectory(
        scene / "trajectory.tum", Trajectory(motion.apply_to_world_from_cam(cameras), times), "tum"
    )
    score = score_point_files(str(scene), source, {"threshold": 0.5, "voxel": 0.0})
    assert (score["align"], score["num_poses"]) == ("sim3", record.num_frames)
    assert score["chamfer_m"] < 1e-3
    assert score["f1"] == 1
    poses = score_files(scene / "trajectory.tum", source)
    assert poses["ate_rmse_m"] == pytest.approx(0, abs=1e-6)
    kitti = write_poses(tmp_path / "poses.txt", cameras)
    assert score_files(Path(kitti), source, "none")["ate_max_m"] == pytest.approx(0, abs=1e-9)


def test_the_command_prints_one_line(
    moved: tuple[Sim3, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, files = moved
    assert main(files["est"], files["gt"], options(files)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    names = {
        "accuracy_m",
        "completeness_m",
        "chamfer_m",
        "precision",
        "recall",
        "f1",
        "voxel_size_m",
        "scale",
    }
    assert names <= set(json.loads(lines[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"voxel": -1.0}, "voxel"),
        ({"align": "se3", "est_trajectory": None}, "--align se3 needs cameras"),
        ({"icp": "affine"}, "icp"),
        ({"est_trajectory": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"icp": "se3", "icp_max_distance": 1e-9}, "raise the distance|only"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    moved: tuple[Sim3, dict[str, str]], change: dict[str, Any], message: str
) -> None:
    _, files = moved
    with pytest.raises(UserError, match=message) as raised:
        score_point_files(files["est"], files["gt"], options(files, **change))
    assert "\n" not in str(raised.value)


def test_cameras_at_one_place_align_nothing(moved: tuple[Sim3, dict[str, str]], tmp_path: Path) -> None:
    _, files = moved
    static = write_poses(tmp_path / "static.txt", torch.eye(3, 4, dtype=torch.float64).repeat(30, 1, 1))
    with pytest.raises(UserError, match="at one place"):
        score_point_files(files["est"], files["gt"], options(files | {"est_trajectory": static}))


def test_cameras_on_a_line_do_not_say_how_points_are_turned(
    moved: tuple[Sim3, dict[str, str]], tmp_path: Path
) -> None:
    _, files = moved
    line = files | {
        name: write_poses(tmp_path / name, drive(30, 0.5, 0.0))
        for name in ("est_trajectory", "gt_trajectory")
    }
    for align in ("sim3", "se3"):
        with pytest.raises(UserError, match="on a line"):
            score_point_files(files["est"], files["gt"], options(line, align=align))
    score = score_point_files(files["gt"], files["gt"], options(line, align="scale"))
    assert score["chamfer_m"] == pytest.approx(0, abs=1e-9)
    assert score["camera_spread_m"] == pytest.approx([0.5 * np.sqrt((30**2 - 1) / 12), 0, 0], abs=1e-9)


def test_two_cameras_are_too_few(moved: tuple[Sim3, dict[str, str]], tmp_path: Path) -> None:
    _, files = moved
    two = files | {
        name: write_poses(tmp_path / name, drive(2, 0.5)) for name in ("est_trajectory", "gt_trajectory")
    }
    with pytest.raises(UserError, match="2 cameras cannot align points"):
        score_point_files(files["est"], files["gt"], options(two))


@pytest.mark.parametrize("icp", [None, "se3"])
def test_clouds_without_points_are_refused(tmp_path: Path, icp: str | None) -> None:
    none, some = (
        write_cloud(tmp_path / "none.ply", np.empty((0, 3))),
        write_cloud(tmp_path / "some.ply", surface(50, 0)),
    )
    with pytest.raises(UserError, match="the estimate has no points"):
        score_point_files(none, some, {"threshold": 1.0, "icp": icp})
    with pytest.raises(UserError, match="the ground truth has no points"):
        score_point_files(some, none, {"threshold": 1.0, "icp": icp})


def test_sequences_without_depth_or_poses_are_no_truth(towns: Path) -> None:
    record = load_index(towns)[0]
    for change, missing in (({"depth": ()}, "depth"), ({"cam_from_world": None}, "poses")):
        with pytest.raises(UserError, match=f"has no {missing}"):
            DepthCloud(dataclasses.replace(record, **change))
    with pytest.raises(UserError, match="does not exist"):
        open_points("nowhere.ply")


def test_a_damaged_cloud_ends_the_command_with_one_line_and_code_2(forks: ForkServer, tmp_path: Path) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(b"ply\nformat ascii 1.0\n")
    done = forks.run("-m", "scal3r_train.cli", "score", "points", path, path, "--threshold", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "bad.ply" in done.stderr
