"""`scal3r render`: known points land on the pixels that an independent projection says, in files that decode."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train import cli
from scal3r_train.geometry.drawing import View
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.scene import load_scene
from scal3r_train.scene.visualization.video import render_video
from scal3r_train.scene.visualization.video.observer_paths import Seen, look_at, observer_path, typical_depth
from scal3r_train.scene.visualization.video.options import OBSERVERS, RenderOptions
from scal3r_train.scene.visualization.video.render_video import Film
from scal3r_train.scene.visualization.video.splatting import Splatter
from tests.scene.visualization.example_scene import MAGENTA, RADIUS, write_example_scene

NUM_FRAMES = 8
BLACK = np.zeros((90, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("render")
    return write_example_scene(folder / "scene")


def render(scene: Path, output: Path, *options: str) -> Path:
    """Run the command for 8 small frames."""
    command = ["render", str(scene), str(output), "--seconds", "0.8", "--fps", "10", "--size", "160x90"]
    assert cli.main([*command, *options]) == 0
    return output


def decoded(path: Path) -> list[np.ndarray]:
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as image:
            frames = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                frames.append(np.asarray(image.convert("RGB")))
            return frames
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == 10
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_the_file_holds_the_frames_that_were_drawn(scene: Path, tmp_path: Path, suffix: str) -> None:
    frames = decoded(render(scene, tmp_path / f"o{suffix}", "--path", "orbit"))
    assert len(frames) == NUM_FRAMES
    film = Film.of(load_scene(scene), RenderOptions(path="orbit", seconds=0.8, fps=10, size="160x90"))
    drawn = np.stack([film.frame(number) for number in range(NUM_FRAMES)])
    assert np.stack(frames).shape == drawn.shape
    # Films store colours more coarsely than brightness: squares of 10 pixels say which frame it is.
    kept, wanted = (np.mean(np.reshape(all_, (-1, 9, 10, 16, 10, 3)), (2, 4)) for all_ in (frames, drawn))
    difference = np.abs(kept[:, None] - wanted[None]).mean((2, 3, 4))
    assert difference.argmin(axis=1).tolist() == list(range(NUM_FRAMES))
    assert difference.diagonal().max() < 5


def test_points_are_where_a_pinhole_camera_puts_them_and_near_ones_hide_far_ones() -> None:
    random = np.random.default_rng(0)
    place = np.array([[3.0, -2.0, 1.0]])
    observer = look_at(place, np.array([[0.0, 0.5, 9.0]]), np.array([0.1, -1.0, 0.05]))[0]
    pixels = random.uniform([4, 4], [156, 86], (60, 2))
    # Spread out, so that no two points share a pixel.
    apart = np.abs(pixels[:, None] - pixels[None]).max(-1) + 9 * np.eye(60) > 1.5
    pixels = pixels[apart.all(1)]
    depth = random.uniform(2, 30, len(pixels))
    local = np.concatenate([(pixels - [80, 45]) / 100, np.ones((len(pixels), 1))], 1) * depth[:, None]
    world = (local - observer[:, 3]) @ observer[:, :3]
    colours = random.integers(60, 256, (len(pixels), 3), np.uint8)
    # Behind each a point of another colour, and some behind the observer and out of the picture.
    behind = (2 * local - observer[:, 3]) @ observer[:, :3]
    beyond = (np.array([[0, 0, -5.0], [500, 0, 5], [0, -500, 5]]) - observer[:, 3]) @ observer[:, :3]
    points = np.concatenate([behind, beyond, world])
    all_colours = np.concatenate([255 - colours, np.full((3, 3), 255, np.uint8), colours])
    cloud = Splatter(points, all_colours, 0.0)
    image, seen = cloud.draw(observer, 100.0, len(points), BLACK, nearest=0.1)
    x, y = pixels.astype(int).T
    np.testing.assert_array_equal(image[y, x], colours)
    np.testing.assert_allclose(seen[y, x], depth, rtol=1e-5)
    assert np.isfinite(seen).sum() == len(pixels)
    # The points so far: before the near ones come, the far ones are seen.
    image, seen = cloud.draw(observer, 100.0, len(behind), BLACK, nearest=0.1)
    np.testing.assert_array_equal(image[y, x], 255 - colours)
    np.testing.assert_allclose(seen[y, x], 2 * depth, rtol=1e-5)


def test_discs_are_as_large_as_points_are_apart_and_runs_out_of_view_are_missing_only_there() -> None:
    # A wall of points 0.1 apart, 4 away: 2.5 pixels each, closed; more points than one run.
    x, y = np.meshgrid(np.arange(-60, 60) * 0.1, np.arange(-30, 30) * 0.1)
    wall = np.stack([x.ravel(), y.ravel(), np.full(x.size, 4.0)], -1)
    colours = np.full((len(wall), 3), 200, np.uint8)
    image, seen = Splatter(wall, colours, 0.1).draw(np.eye(3, 4), 100.0, len(wall), BLACK, 0.1)
    expected = (np.abs(np.arange(160) + 0.5 - 80) < 146)[None] & (np.abs(np.arange(90) + 0.5 - 45) < 72)[
        :, None
    ]
    assert np.isfinite(seen)[expected].mean() == 1
    assert (image[expected] == 200).all()
    # The same from far away, where points are denser than pixels and some are left out: still no hole.
    far = np.eye(3, 4)
    far[2, 3] = 76.0
    _, seen = Splatter(wall, colours, 0.1).draw(far, 400.0, len(wall), BLACK, 0.1)
    assert np.isfinite(seen)[45 - 13 : 45 + 13, 80 - 28 : 80 + 28].mean() > 0.97


def test_every_observer_sees_the_scene_upright(scene: Path) -> None:
    loaded = load_scene(scene)
    world_from_cam = loaded.world_from_cam.numpy()
    rotation = world_from_cam[:, :, :3].swapaxes(1, 2)
    cam_from_world = np.concatenate([rotation, -rotation @ world_from_cam[:, :, 3:]], -1)
    view = View.of(cam_from_world)
    np.testing.assert_allclose(view.up, [0, -1, 0], atol=0.05)  # y is down in this scene
    seen = Seen(world_from_cam, view, 100.0, loaded.positions.astype(float))
    centres = world_from_cam[:, :, 3]
    for kind in OBSERVERS:
        path = observer_path(kind, seen, 20, 10.0, (90, 160))
        observers = path.observer_from_world
        np.testing.assert_allclose(
            observers[:, :, :3] @ observers[:, :, :3].swapaxes(1, 2),
            np.tile(np.eye(3), (20, 1, 1)),
            atol=1e-9,
        )
        assert (np.linalg.det(observers[:, :, :3]) > 0).all()
        assert path.now[0] == 0
        assert path.now[-1] == len(centres) - 1
        places = -np.einsum("vji,vj->vi", observers[:, :, :3], observers[:, :, 3])
        now = centres[np.round(path.now).astype(int)]
        if kind == "top":
            assert ((places - centres.mean(0)) @ view.up > 2 * RADIUS).all()
        else:
            assert (observers[:, 1, :3] @ view.up < -0.5).all()  # y of the picture is down
        if kind in ("orbit", "top"):
            local = np.einsum("vij,sj->vsi", observers[:, :, :3], centres) + observers[:, None, :, 3]
            pixels = local[..., :2] / local[..., 2:] * path.focal + [80, 45]
            assert ((pixels > 0) & (pixels < [160, 90])).all()  # every camera, from everywhere
            assert np.ptp(pixels[..., 0], axis=1).max() > 50  # and not small
        elif kind == "chase":
            ahead = world_from_cam[np.round(path.now).astype(int), :, 2]
            offset = places - now
            assert ((offset * ahead).sum(1) < 0).all()
            assert (offset @ view.up > 0).all()
        else:
            assert np.linalg.norm(places - now, axis=1).max() < 30


def test_points_come_with_their_frames(scene: Path) -> None:
    loaded = load_scene(scene)
    options = {"path": "top", "seconds": 0.8, "fps": 10, "size": "160x90"}
    growing = Film.of(loaded, RenderOptions(**options))
    whole = Film.of(loaded, RenderOptions(whole=True, **options))

    def magenta(film: Film, number: int) -> int:
        # Only around the block at the origin: a piece of the path has a like colour.
        observer = film.path.observer_from_world[number]
        x, y = (observer[:2, 3] / observer[2, 3] * film.path.focal + [80, 45]).astype(int)
        near = film.frame(number)[y - 9 : y + 10, x - 9 : x + 10].astype(int)
        return int((np.abs(near - MAGENTA).max(-1) < 90).sum())

    amounts = [magenta(growing, number) for number in range(NUM_FRAMES)]
    assert amounts[0] < 0.4 * amounts[-1]
    assert magenta(whole, 0) > 0.7 * amounts[-1]


def test_doubtful_points_and_more_than_asked_for_are_left_out(scene: Path) -> None:
    loaded = load_scene(scene)
    count = len(loaded.positions)
    assert Film.of(loaded, RenderOptions()).num_points == count
    assert Film.of(loaded, RenderOptions(max_points=100)).num_points == 100
    kept = Film.of(loaded, RenderOptions(hide_doubtful=25)).num_points
    assert kept == pytest.approx(0.75 * count, rel=0.01)


def test_truth_path_and_inset_are_drawn(scene: Path, tmp_path: Path) -> None:
    loaded = load_scene(scene)
    plain = {"path": "top", "seconds": 0.8, "fps": 10, "size": "320x180", "whole": True}
    film = Film.of(loaded, RenderOptions(**plain))
    first, last = film.frame(0).astype(int), film.frame(NUM_FRAMES - 1).astype(int)
    # The path of the cameras, where an independent projection sees it.
    observer, centre = film.path.observer_from_world[-1], loaded.world_from_cam[10, :, 3].numpy()
    local = observer[:, :3] @ centre + observer[:, 3]
    x, y = (local[:2] / local[2] * film.path.focal + [160, 90]).astype(int)
    assert np.abs(last - first)[y - 1 : y + 2, x - 1 : x + 2].max() > 60
    poses = tmp_path / "truth.txt"
    of_video = loaded.world_from_cam.repeat_interleave(2, dim=0)  # the scene has every other frame of it
    write_trajectory(poses, Trajectory(of_video, None), "kitti")
    true = Film.of(loaded, RenderOptions(truth=str(poses), **plain)).frame(0).astype(int)
    observer = film.path.observer_from_world[0]
    local = loaded.world_from_cam[:, :, 3].numpy() @ observer[:, :3].T + observer[:, 3]
    reddened = [
        (true - first)[y - 1 : y + 2, x - 1 : x + 2, 0].max() > 60
        for x, y in (local[:, :2] / local[:, 2:] * film.path.focal + [160, 90]).astype(int)
    ]
    assert sum(reddened) > 0.5 * len(reddened), "all of it, before the path is there"
    inset = Film.of(loaded, RenderOptions(inset=True, **plain)).frame(0).astype(int)
    corner = np.s_[180 - 50 : 180 - 8, 320 - 60 : 320 - 8]
    assert np.abs(inset - first)[corner].mean() > 20
    assert np.abs(inset - first)[:90].max() == 0


def test_what_cannot_be_rendered_is_one_line(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    existing = tmp_path / "there.gif"
    existing.write_bytes(b"x")
    for output, options, words in (
        (tmp_path / "o.avi", [], "must end in one of .mp4"),
        (tmp_path / "o.mp4", ["--size", "161x90"], "even sides"),
        (tmp_path / "o.mp4", ["--size", "big"], "1280x720"),
        (tmp_path / "o.gif", ["--fps", "60"], "at most 50 frames"),
        (tmp_path / "o.gif", ["--seconds", "0.001"], "gives no frame"),
        (existing, [], "--overwrite"),
        (tmp_path / "o.gif", ["--truth", str(tmp_path / "none.txt")], "none.txt"),
    ):
        assert cli.main(["render", str(scene), str(output), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert existing.read_bytes() == b"x"
    assert cli.main(["render", str(tmp_path), str(tmp_path / "o.gif")]) == 2
    assert "is no scene folder" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert cli.main(["render", str(scene), str(tmp_path / "o.mp4")]) == 2
    assert "pip install 'scal3r_train[video]'" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"there.gif"}


def test_a_full_disk_is_one_line_and_leaves_nothing(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(film: Film, number: int) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render_video.Film, "frame", full)
    assert cli.main(["render", str(scene), str(tmp_path / "o.gif"), "--seconds", "1"]) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_images_are_said_once(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moved = load_scene(scene)
    film = Film.of(moved, RenderOptions(inset=True, seconds=0.8, fps=10, size="160x90"))
    monkey = film._images
    assert monkey is not None
    monkey._record = moved.input_record(tmp_path / "nowhere")
    film.frame(0)
    film.frame(3)
    assert len(film.notes) == 1
    assert "frame 0 is not to be had" in film.notes[0]


def test_typical_depth_is_that_of_each_frames_own_points() -> None:
    cameras = torch.eye(3, 4).double().repeat(3, 1, 1).numpy()
    cameras[:, 2, 3] = [0, 10, 20]
    points = np.array([[0, 0, 4.0], [1, 0, 14.0], [0, 1, 24.0], [0, 0, 100.0]])
    assert typical_depth(cameras, points, np.array([0, 1, 2, -1])) == 4
    assert typical_depth(cameras, points[:0], np.zeros(0, int)) == 100  # ten steps
