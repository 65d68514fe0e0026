"""`--refine`: disturbed cameras come back, what cannot be refined is left as it was, and errors mean pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from PIL import Image

from scal3r_train import cli
from scal3r_train.scene.export.options import ExportOptions
from scal3r_train.scene.export.pinhole_errors import Pinholes, Tracks, epipolar_errors, reprojection_errors
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.export.view_pairs import view_pairs
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, SceneFrame, load_scene, load_scene_info, write_scene
from tests.scene.export.scenes import make_scene

HW, FOCAL = (120, 160), 150.0


def random_cameras(num: int, seed: int = 0) -> Pinholes:
    """Cameras around the origin that look at it from about 6 away."""
    random = torch.Generator().manual_seed(seed)
    turn = 0.4 * torch.randn(num, 3, generator=random, dtype=torch.float64)
    rotation = roma.rotvec_to_rotmat(turn)
    translation = torch.tensor([0, 0, 6.0]).double() + 0.2 * torch.randn(num, 3, generator=random).double()
    poses = torch.cat([rotation, translation[:, :, None]], -1).numpy()
    return Pinholes(poses, np.tile([FOCAL, 1.1 * FOCAL, 80, 60], (num, 1)))


def project(cameras: Pinholes, frame: int, points: np.ndarray) -> np.ndarray:
    local = points @ cameras.cam_from_world[frame, :, :3].T + cameras.cam_from_world[frame, :, 3]
    return local[:, :2] / local[:, 2:] * cameras.intrinsics[frame, :2] + cameras.intrinsics[frame, 2:]


def test_errors_of_exact_observations_are_zero_and_of_shifted_ones_the_shift() -> None:
    cameras, random = random_cameras(6), np.random.default_rng(1)
    points = random.uniform(-1, 1, (40, 3))
    track, frame = (values.ravel() for values in np.meshgrid(np.arange(40), np.arange(6)))
    pixels = np.stack([project(cameras, f, points[t][None])[0] for t, f in zip(track, frame, strict=True)])
    # The first guess of the points is off by a tenth of the scene.
    tracks = Tracks(points + random.normal(0, 0.1, points.shape), track, frame, pixels)
    assert reprojection_errors(cameras, tracks).max() < 1e-6
    matches = np.hstack([project(cameras, frame, points) for frame in (0, 3)])
    assert epipolar_errors(cameras, (0, 3), matches).max() < 1e-9
    # One observation of the first track wrong by 40 pixels: a robust fit leaves the error where it is.
    wrong = pixels.copy()
    wrong[np.flatnonzero(track == 0)[2]] += (40, 0)
    errors = reprojection_errors(cameras, Tracks(points, track, frame, wrong))
    assert errors[np.flatnonzero(track == 0)[2]] == pytest.approx(40, abs=0.5)
    assert np.delete(errors, np.flatnonzero(track == 0)[2]).max() < 0.5


def test_sampsons_distance_is_that_to_the_nearest_pair_that_fits() -> None:
    cameras, random = random_cameras(2, seed=5), np.random.default_rng(2)
    points = random.uniform(-1, 1, (8, 3))
    exact = np.hstack([project(cameras, frame, points) for frame in (0, 1)])
    noisy = exact + random.normal(0, 0.3, exact.shape)
    found = epipolar_errors(cameras, (0, 1), noisy)
    for number in range(8):
        # The smallest change of the four numbers after which two rays meet: best over points near the true one.
        one = Tracks(points[number][None], np.zeros(2, int), np.arange(2), noisy[number].reshape(2, 2))
        nearest = np.linalg.norm(reprojection_errors(cameras, one))
        assert found[number] == pytest.approx(nearest, rel=0.03, abs=2e-3)


def test_points_behind_a_camera_count_as_infinitely_wrong() -> None:
    cameras = random_cameras(2)
    behind = Pinholes(cameras.cam_from_world * [[[1, 1, 1, 1]], [[-1, -1, -1, -1]]], cameras.intrinsics)
    track, frame = np.zeros(2, int), np.arange(2)
    pixels = np.stack([project(cameras, f, np.zeros((1, 3)))[0] for f in (0, 1)])
    assert np.isinf(reprojection_errors(behind, Tracks(np.zeros((1, 3)), track, frame, pixels))).any()


def ball_of_squares(num: int, noise: float, folder: Path) -> tuple[Path, Pinholes]:
    """A scene of cameras that look at a textured plane and a step before it, with images, disturbed by `noise`."""
    random = np.random.default_rng(7)
    texture = np.kron(random.integers(0, 256, (60, 60, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    angles = np.linspace(-0.35, 0.35, num)
    poses = []
    for number, angle in enumerate(angles):
        rotation = roma.rotvec_to_rotmat(torch.tensor([0.1 * np.sin(5 * angle), angle, 0.0])).double().numpy()
        centre = rotation.T @ [0, 0.15 * (number % 3), -4.0]
        poses.append(np.hstack([rotation, -rotation @ centre[:, None]]))
    true = Pinholes(np.stack(poses), np.tile([FOCAL, FOCAL, 80.0, 60.0], (num, 1)))
    (folder / "photos").mkdir(parents=True)
    frames, clouds = [], []
    for number, pose in enumerate(true.cam_from_world):
        y, x = np.mgrid[0 : HW[0] : 0.5, 0 : HW[1] : 0.5] + 0.25
        rays = np.stack([(x - 80) / FOCAL, (y - 60) / FOCAL, np.ones_like(x)], -1) @ pose[:, :3]
        centre = true.centres[number]
        wall = centre + rays * ((0.8 - centre[2]) / rays[..., 2])[..., None]
        step = centre + rays * ((-0.4 - centre[2]) / rays[..., 2])[..., None]
        on_step = np.abs(step[..., :2]).max(-1) < 0.7
        hit = np.where(on_step[..., None], step, wall)
        row, column = (np.floor((hit[..., axis] + 3) * 80).astype(int) % 480 for axis in (1, 0))
        image = texture[row, column].reshape(HW[0], 2, HW[1], 2, 3).mean((1, 3))
        name = f"my photos/{number}.png"
        (folder / "photos/my photos").mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / "photos" / name)
        frames.append(SceneFrame(name=name, image_hw=HW))
        points = hit[10::20, 10::20].reshape(-1, 3)
        source = number * 14 * 28 + np.arange(len(points)) % (14 * 28)
        source.sort()
        clouds.append(
            PointCloud(points, np.zeros(points.shape, np.uint8), np.ones(len(points), np.float32), source)
        )
    folder_of = make_scene(folder / "made", 0, names=("0.png",), sizes=(HW,))
    cloud = PointCloud.join(clouds)
    info = load_scene_info(folder_of).model_copy(
        update={
            "input": {"dataset": "images", "root": str(folder / "photos")},
            "num_frames": num,
            "frame_indices": tuple(range(num)),
            "chunks": ((0, num),),
            "provided_frames": ((0, num),),
            "num_points": len(cloud),
        }
    )
    generator = torch.Generator().manual_seed(3)
    world_from_cam = np.concatenate(
        [true.cam_from_world[:, :, :3].swapaxes(1, 2), true.centres[:, :, None]], -1
    )
    noisy = torch.from_numpy(world_from_cam)
    turn = noise * torch.randn(num, 3, generator=generator).double()
    noisy[:, :, :3] = noisy[:, :, :3] @ roma.rotvec_to_rotmat(turn)
    noisy[:, :, 3] += 3 * noise * torch.randn(num, 3, generator=generator).double()
    matrix = (
        torch.tensor([[1.01 * FOCAL, 0, 80], [0, 1.01 * FOCAL, 60], [0, 0, 1]]).double().repeat(num, 1, 1)
    )
    scene = folder / "scene"
    scene.mkdir()
    times = torch.arange(num).double()
    write_scene(scene, SceneCameras(info, tuple(frames), times, noisy, matrix), cloud)
    return scene, true


def relative_poses(cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations relative to the first camera, and centre distances relative to the largest: the same in every world."""
    rotation = cam_from_world[:, :, :3] @ cam_from_world[0, :, :3].T
    centres = Pinholes(cam_from_world, np.empty((0, 4))).centres
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return rotation, distance / distance.max()


def test_disturbed_cameras_come_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    scene, true = ball_of_squares(8, 0.01, tmp_path)
    output = tmp_path / "model"
    assert cli.main(["export", str(scene), str(output), "--to", "colmap", "--refine"]) == 0
    printed = capsys.readouterr()
    assert "median reprojection error" in printed.out
    assert "not refined" not in printed.err
    said = json.loads((output / "refinement.json").read_text())
    assert said["refined"]
    for kind in ("epipolar_px", "reprojection_px"):
        assert said[kind]["after"]["median"] < 0.5 * said[kind]["before"]["median"]
    model = pycolmap.Reconstruction(output)
    images = [model.images[number] for number in sorted(model.images)]
    assert [image.name for image in images] == [f"my photos/{number}.png" for number in range(8)]
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert model.compute_mean_reprojection_error() < 1
    refined = np.stack([image.cam_from_world().matrix() for image in images])
    start = load_scene(scene).world_from_cam.numpy()
    before = np.concatenate(
        [start[:, :, :3].swapaxes(1, 2), -start[:, :, :3].swapaxes(1, 2) @ start[:, :, 3:]], -1
    )
    truth = relative_poses(true.cam_from_world)
    for kind, share in ((0, 0.35), (1, 0.35)):
        errors = [np.abs(relative_poses(poses)[kind] - truth[kind]).mean() for poses in (before, refined)]
        assert errors[1] < share * errors[0]
    # World and scale are still the scene's.
    moved = np.linalg.norm(Pinholes(refined, np.empty((0, 4))).centres - start[:, :, 3], axis=-1)
    assert moved.max() < 0.2
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]


def test_images_without_anything_in_common_leave_the_scenes_cameras(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene(tmp_path / "scene", 50, root=tmp_path / "photos")  # images of noise
    output = tmp_path / "model"
    assert cli.main(["export", str(scene), str(output), "--to", "colmap", "--refine"]) == 0
    assert "not refined, these are the scene's own cameras" in capsys.readouterr().err
    assert json.loads((output / "refinement.json").read_text())["refined"] is False
    model = pycolmap.Reconstruction(output)
    assert len(model.points3D) == 50
    poses = np.stack(
        [model.images[number].cam_from_world().inverse().matrix() for number in sorted(model.images)]
    )
    np.testing.assert_allclose(poses, load_scene(scene).world_from_cam, atol=1e-9)


def test_refine_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(tmp_path / "scene", 50, root=tmp_path / "photos")
    command = ["export", str(scene), str(tmp_path / "o"), "--refine", "--to"]
    assert cli.main([*command, "ply"]) != 0
    assert "--refine has no effect on ply" in capsys.readouterr().err
    assert cli.main([*command, "colmap", "--max-points", "5"]) != 0
    assert "max_points has no effect" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    assert cli.main([*command, "colmap"]) != 0
    assert "pip install 'scal3r_train[refine]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_frames_that_see_the_same_place_again_are_paired(tmp_path: Path) -> None:
    """A camera that goes straight and, 70 frames later, comes past the first places again."""
    num, half = 140, 70
    folder = make_scene(tmp_path / "made", 0, names=("0.png",), sizes=(HW,))
    poses = torch.eye(3, 4).double().repeat(num, 1, 1)
    poses[:, 0, 3] = 0.5 * (torch.arange(num) % half)
    points = np.concatenate([[[x, y, 5.0] for x in (-1, 0, 1) for y in (-1, 1)]] * num)
    points[:, 0] += np.repeat(poses[:, 0, 3].numpy(), 6)
    source = np.repeat(np.arange(num) * 14 * 28, 6) + np.tile(np.arange(6), num)
    cloud = PointCloud(points, np.zeros(points.shape, np.uint8), np.ones(len(points), np.float32), source)
    info = load_scene_info(folder).model_copy(
        update={
            "num_frames": num,
            "frame_indices": tuple(range(num)),
            "chunks": ((0, num),),
            "provided_frames": ((0, num),),
            "num_points": len(cloud),
        }
    )
    matrix = torch.tensor([[FOCAL, 0, 80], [0, FOCAL, 60], [0, 0, 1]]).double().repeat(num, 1, 1)
    frames = tuple(SceneFrame(name=f"{number}.png", image_hw=HW) for number in range(num))
    (tmp_path / "scene").mkdir()
    cameras = SceneCameras(info, frames, torch.arange(num).double(), poses, matrix)
    write_scene(tmp_path / "scene", cameras, cloud)
    with ExportSource.open(tmp_path / "scene", ExportOptions(refine=True)) as opened:
        pairs = set(view_pairs(opened))
    assert {(10, 11), (10, 12), (10, 80), (30, 100)} <= pairs
    assert (10, 50) not in pairs  # 20 units apart: nothing in common
    assert len(pairs) < num * 20
