"""The report: everything in it is text or ours, it needs nothing from elsewhere, and it says what the scene says."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.scene import load_scene
from scal3r_train.scene.visualization import report
from scal3r_train.scene.visualization.charts import Axis, bars, path_data, round_step
from scal3r_train.scene.visualization.colours import chunk_colours, confidence_colours, frame_of_point
from scal3r_train.scene.visualization.ground_truth import load_ground_truth
from scal3r_train.scene.visualization.html import Html, joined, table, tag
from scal3r_train.scene.visualization.thumbnails import Thumbnails
from tests.scene.visualization.example_scene import (
    EVIL,
    IMAGE_HW,
    NUM_FRAMES,
    POINTS_PER_FRAME,
    example_cameras,
    write_example_scene,
)

ELEMENTS_WITHOUT_END = {"meta", "img"}


class PageReader(HTMLParser):
    """Collects elements, attributes and text, and checks that elements end in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ELEMENTS_WITHOUT_END:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_scene(tmp_path_factory.mktemp("seen") / "scene")


@pytest.fixture(scope="module")
def page(folder: Path) -> PageReader:
    path = report.write_report(folder)
    assert path == folder / "report.html"
    assert path.stat().st_size < 400_000
    return PageReader(path.read_text(encoding="utf-8"))


def test_nothing_is_run_or_fetched(page: PageReader) -> None:
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:image/jpeg;base64,"[:5])
        assert "href" not in attributes
    style = report.STYLE
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in str(page.elements)


def test_text_from_files_stays_text(page: PageReader) -> None:
    assert page.text.count(EVIL) >= 4  # title, heading, reason of a loop, state plan


def test_it_says_what_the_scene_says(page: PageReader) -> None:
    for words in (
        "torn before chunk 2",
        "1 of 2 seams are not trusted: before chunk 2",
        "loops accepted (1)",
        "loops rejected (1)",
        "88% fit",
        "ab" * 32,
        "chunk_size: 60",
        "4 min 10 s",
        "1,024 MiB",
        "1.0 MiB",
    ):
        assert words in page.text, words
    classes = [attributes.get("class") for name, attributes in page.elements if name in ("path", "circle")]
    assert classes.count("chunk") == 3
    assert classes.count("break") == 1
    assert classes.count("loop accepted") == classes.count("loop rejected") == 1
    assert "truth" not in classes
    captions = [attributes["alt"] or "" for name, attributes in page.elements if name == "img"]
    assert len(captions) == 3 + report.NUM_PREVIEWS - 1  # the last frame's image is gone


@pytest.mark.parametrize(("num_frames", "with_points"), [(1, True), (2, True), (3, False)])
def test_scenes_with_little_in_them(tmp_path: Path, num_frames: int, with_points: bool) -> None:
    scene = write_example_scene(tmp_path / "scene", num_frames=num_frames, with_points=with_points)
    text = PageReader(report.write_report(scene).read_text(encoding="utf-8")).text
    assert ("The scene has no points." in text) != with_points


def test_camera_at_rest_and_points_without_place(tmp_path: Path) -> None:
    from dataclasses import replace

    scene = load_scene(write_example_scene(tmp_path / "scene"))
    positions = scene.positions.copy()
    positions[::7] = np.nan
    confidence = np.full_like(scene.confidence, 2.5)
    still = scene.world_from_cam[:1].repeat(NUM_FRAMES, 1, 1)
    PageReader(
        report.report(replace(scene, positions=positions, world_from_cam=still, confidence=confidence))
    )


class TestGroundTruth:
    """The truth is the scene's cameras moved by a known similarity."""

    truth_from_scene = Sim3(
        torch.tensor(0.25).double(),
        torch.linalg.matrix_exp(torch.tensor([[0, -1.0, 0.3], [1, 0, 0.2], [-0.3, -0.2, 0]]).double()),
        torch.tensor([5.0, -7, 100]).double(),
    )

    def truth(self) -> torch.Tensor:
        return self.truth_from_scene.apply_to_world_from_cam(example_cameras())

    def test_kitti_poses_belong_to_frames_of_the_input(self, folder: Path, tmp_path: Path) -> None:
        every = torch.eye(3, 4).double().repeat(2 * NUM_FRAMES, 1, 1)
        every[::2] = self.truth()  # the scene used every second frame
        write_trajectory(tmp_path / "poses.txt", Trajectory(every, None), "kitti")
        self.check(folder, tmp_path / "poses.txt", NUM_FRAMES)
        write_trajectory(tmp_path / "start.txt", Trajectory(every[:21], None), "kitti")
        self.check(folder, tmp_path / "start.txt", 11)

    def test_tum_poses_by_number_only_if_all_are_there(self, folder: Path, tmp_path: Path) -> None:
        every = self.truth().repeat_interleave(2, dim=0)
        times = 1e9 + torch.arange(2 * NUM_FRAMES).double() / 30
        write_trajectory(tmp_path / "all.tum", Trajectory(every, times), "tum")
        self.check(folder, tmp_path / "all.tum", NUM_FRAMES)
        write_trajectory(tmp_path / "few.tum", Trajectory(every[2:], times[2:]), "tum")
        with pytest.raises(UserError, match="no times"):
            load_ground_truth(str(tmp_path / "few.tum"), load_scene(folder))

    def test_tum_poses_by_time(self, folder: Path, tmp_path: Path) -> None:
        from dataclasses import replace

        scene = load_scene(folder)
        times = 5 + torch.arange(NUM_FRAMES).double() / 10
        write_trajectory(tmp_path / "poses.tum", Trajectory(self.truth()[7:], times[7:] + 0.004), "tum")
        found = load_ground_truth(str(tmp_path / "poses.tum"), replace(scene, timestamps=times))
        assert found.frames.tolist() == list(range(7, NUM_FRAMES))
        assert found.score.ate_rmse_m < 1e-6

    def test_too_few_poses_are_refused(self, folder: Path, tmp_path: Path) -> None:
        write_trajectory(tmp_path / "poses.txt", Trajectory(self.truth()[:4], None), "kitti")
        with pytest.raises(UserError, match="2 poses"):
            load_ground_truth(str(tmp_path / "poses.txt"), load_scene(folder))

    def check(self, folder: Path, path: Path, num_poses: int) -> None:
        scene = load_scene(folder)
        found = load_ground_truth(str(path), scene)
        assert found.score.num_poses == len(found.frames) == num_poses
        assert found.score.ate_rmse_m < 1e-6
        assert found.score.scale == pytest.approx(0.25)
        torch.testing.assert_close(
            found.world_from_cam, scene.world_from_cam[found.frames], atol=1e-6, rtol=0
        )


def test_command_prints_the_error(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scal3r_train.cli import main

    write_trajectory(
        tmp_path / "p.txt", Trajectory(example_cameras().repeat_interleave(2, dim=0), None), "kitti"
    )
    assert main(["report", str(folder), "--truth", str(tmp_path / "p.txt")]) == 0
    path, line = capsys.readouterr().out.splitlines()
    assert path == str(folder / "report.html")
    assert line.startswith("ATE ") and f"{NUM_FRAMES} poses" in line
    read = PageReader(Path(path).read_text(encoding="utf-8"))
    assert [a for _, a in read.elements if a.get("class") == "truth"]
    assert main(["report", str(tmp_path)]) == 2
    assert "no scene folder" in capsys.readouterr().err


def test_markup_is_made_by_tags_only() -> None:
    assert (
        tag("p", "a<b", tag("b", "&"), 1, None, title='"x"')
        == '<p title="&quot;x&quot;">a&lt;b<b>&amp;</b>1</p>'
    )
    assert isinstance(joined(["<", Html("<i>")]), Html)
    assert "<td>&lt;</td>" in table(["h"], [["<"]])


def test_lines_are_thinned_and_keep_their_ends() -> None:
    places = np.stack([np.arange(5000.0), np.zeros(5000)], -1)
    numbers = [pair.split(",")[0] for pair in path_data(places, 11)[1:].split()]
    assert len(numbers) == 11 and numbers[0] == "0.0" and numbers[-1] == "4999.0"


@pytest.mark.parametrize(
    ("length", "step"), [(0.9, 1), (1, 1), (2.1, 2.5), (260, 500), (0.0031, 0.005), (0, 1)]
)
def test_steps_are_round(length: float, step: float) -> None:
    assert round_step(length) == pytest.approx(step)


def test_axes_place_values() -> None:
    assert Axis(0, 10, 100, 0).place([0, 5, 20]).tolist() == [100, 50, 0]
    assert Axis(0.01, 100, 0, 4, is_log=True).place([0.1, 10]) == pytest.approx([1, 3])
    assert Axis(0.01, 100, 0, 4, is_log=True).ticks == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert Axis(0.4, 3, 0, 4, is_log=True).ticks == pytest.approx([0.5, 1, 2])


def test_bars_that_are_not_trusted_stand_out_and_gaps_are_gaps() -> None:
    drawn = str(bars([0.5, None, 0.25, float("nan")], [True, True, False, True], "x", limits=(0, 1)))
    good = drawn.split('class="good"')[0].rsplit("<path", 1)[1]
    bad = drawn.split('class="bad"')[0].rsplit("<path", 1)[1]
    assert (good.count("M"), bad.count("M")) == (1, 1)


def test_points_know_their_frames(folder: Path) -> None:
    from dataclasses import replace

    scene = load_scene(folder)
    frames = frame_of_point(scene)
    assert (np.bincount(frames) == POINTS_PER_FRAME).all()
    old = replace(
        scene, frames=tuple(frame.model_copy(update={"num_points": None}) for frame in scene.frames)
    )
    assert (frame_of_point(old) == -1).all()


def test_neighbouring_chunks_differ_and_order_shows_in_confidence() -> None:
    colours = chunk_colours(500).astype(int)
    assert colours.shape == (500, 3) and (np.abs(np.diff(colours, axis=0)).max(1) > 8).all()
    assert chunk_colours(1).shape == (1, 3)
    shades = confidence_colours(np.random.default_rng(0).permutation(1000).astype(np.float32)).astype(int)
    values = np.random.default_rng(0).permutation(1000)
    assert shades[values.argmax()].tolist() == [253, 231, 37]  # viridis from end to end
    assert shades[values.argmin()].tolist() == [68, 1, 84]
    assert confidence_colours(np.zeros(0)).shape == (0, 3)


def test_images_are_small_or_none(folder: Path) -> None:
    images = Thumbnails(load_scene(folder))
    pixels = images.of(0, 32)
    assert pixels is not None and pixels.shape == (24, 32, 3) and (pixels == (200, 30, 30)).all()
    assert images.of(NUM_FRAMES - 1, 32) is None
    assert max(IMAGE_HW) > 32
