"""Report and viewer in a headless Chromium: something is seen, nothing fails, and what is set is what is drawn."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from tests.conftest import PROJECT_ROOT
from tests.scene.visualization.browser import Page, chromium_page, find_chromium
from tests.scene.visualization.example_scene import BLUE, GREEN, MAGENTA, write_example_scene

pytest.importorskip("viser", reason="viser is not installed: pip install 'scal3r_train[view]'")
needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium: `make chromium` installs Debian's"
)
WINDOW = (1200, 800)
PANEL = 330  # pixels at the right that the panel covers


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page() as page:
        yield page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_example_scene(tmp_path / "scene")


def share_of(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> float:
    """How much of a picture without its panel has about this colour."""
    part = pixels[:, :-PANEL].astype(int)
    return float((np.abs(part - colour).max(-1) <= tolerance).mean())


def shows(colour: tuple[int, int, int], least: float = 0.002) -> Callable[[np.ndarray], bool]:
    return lambda pixels: share_of(pixels, colour) > least


def hides(colour: tuple[int, int, int]) -> Callable[[np.ndarray], bool]:
    return lambda pixels: share_of(pixels, colour) < 1e-4


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_report_is_seen(page: Page, folder: Path, dark: bool) -> None:
    from scal3r_train.scene.visualization.report import write_report

    page.problems.clear()
    page.requests.clear()
    page.open(write_report(folder).as_uri(), *WINDOW, dark=dark)
    pixels = page.wait_for(lambda pixels: pixels.std() > 10)
    background = pixels[5, 5].astype(int)
    assert (background.max() < 60) if dark else (background.min() > 220)
    whole = page.screenshot(whole=True)
    assert len(np.unique(whole.astype(int) @ [1, 256, 65536])) > 500
    for colour in (GREEN, MAGENTA, (200, 30, 30)):  # floor and block of the point cloud, input images
        assert (np.abs(whole.astype(int) - colour).max(-1) < 45).mean() > 1e-4, colour
    assert page.evaluate("document.images.length") == 12
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 50)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.querySelectorAll('svg path.chunk').length") == 3
    assert page.problems == []
    assert len(page.requests) == 1


@needs_chromium
def test_viewer_is_seen(page: Page, folder: Path) -> None:
    from scal3r_train.scene.visualization.viewer import viewing

    page.problems.clear()
    with viewing(folder) as url:
        page.open(url, *WINDOW)
        pixels = page.wait_for(lambda pixels: shows(GREEN)(pixels) and shows(MAGENTA, 5e-4)(pixels))
        assert share_of(pixels, GREEN) > 0.002
        assert share_of(pixels, MAGENTA) > 5e-4
        assert page.problems == []
        page.open("about:blank", *WINDOW)


@pytest.mark.slow
@needs_chromium
def test_viewer_shows_what_is_set(page: Page, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scal3r_train.cli", "view", str(folder), "--port", str(free_port())]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"{folder} is shown at http://127.0.0.1:")
        page.problems.clear()
        page.open(line.split(" at ")[1].split()[0], *WINDOW)
        pixels = page.wait_for(lambda pixels: shows(GREEN)(pixels) and shows(MAGENTA, 5e-4)(pixels))
        assert share_of(pixels, GREEN) > 0.002
        assert share_of(pixels, MAGENTA) > 5e-4
        set_by_hand(page, folder, tmp_path)
        assert page.problems == []
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert err == ""


def set_by_hand(page: Page, folder: Path, downloads: Path) -> None:
    """Use the panel as people do."""
    page.evaluate(click_button("Play / pause"))
    page.evaluate(click_button("Play / pause"))
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    page.evaluate(click_button("Screenshot"))
    end = time.monotonic() + 120
    while not (found := list(downloads.glob("scal3r_frame_*.png"))) and time.monotonic() < end:
        time.sleep(0.5)
    from PIL import Image

    assert np.asarray(Image.open(found[0])).shape == (1080, 1920, 3)
    write_example_scene(folder, floor=BLUE)
    page.evaluate(click_button("Reload"))
    pixels = page.wait_for(lambda pixels: shows(BLUE)(pixels) and hides(GREEN)(pixels))
    assert share_of(pixels, BLUE) > 0.002
    assert share_of(pixels, GREEN) < 1e-4


def click_button(text: str) -> str:
    return (
        f"[...document.querySelectorAll('button')].find(one => one.textContent.trim() === '{text}').click()"
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_taken_port_is_one_line(folder: Path) -> None:
    from scal3r_train.scene.visualization.viewer import viewing

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"), viewing(folder, port):
            pass


def test_missing_viser_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scal3r_train.scene.visualization import viewer

    monkeypatch.setattr(viewer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'scal3r_train\[view\]'"):
        viewer.main(folder, None, "127.0.0.1", None, None)


@pytest.mark.parametrize("arguments", ["--max-points 0", "--port 70000", "--port -1"])
def test_numbers_out_of_range_are_one_line(
    folder: Path, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from scal3r_train.cli import main

    assert main(["view", str(folder), *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"scal3r: error: {arguments.split()[0]} is")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(("num_frames", "with_points"), [(1, True), (2, False)])
def test_scenes_with_little_in_them_are_shown(tmp_path: Path, num_frames: int, with_points: bool) -> None:
    from scal3r_train.scene.visualization.camera_drawing import loop_lines, trajectory_lines
    from scal3r_train.scene.visualization.viewed_scene import COLOURS, ViewedScene

    folder = write_example_scene(tmp_path / "scene", num_frames=num_frames, with_points=with_points)
    shown = ViewedScene.load(folder)
    assert (len(shown.levels) > 0) == with_points
    assert np.isfinite(shown.world_from_cam).all()
    index = shown.levels.passing()
    assert all(shown.point_colours(index, kind).shape == (len(index), 3) for kind in COLOURS)
    assert len(trajectory_lines(shown, np.ones(num_frames, bool))[0]) == num_frames - 1
    assert loop_lines(shown)[0].shape == (0, 2, 3)


def test_shown_scene_stands_upright_around_the_origin(folder: Path) -> None:
    from scal3r_train.scene.visualization.viewed_scene import EXTENT, ViewedScene

    shown = ViewedScene.load(folder, max_points=5000)
    assert len(shown.levels) == 5000
    down = shown.world_from_cam[:, :, 1]
    assert np.abs(down - [0, 0, -1]).max() < 0.05
    low, high = shown.levels.positions.min(0), shown.levels.positions.max(0)
    assert EXTENT < (high - low).max() < 1.2 * EXTENT
    assert np.abs(low + high).max() < 0.1 * EXTENT
    floor = (shown.levels.colours == GREEN).all(-1)
    block = (shown.levels.colours == MAGENTA).all(-1)
    assert np.median(shown.levels.positions[block, 2]) > np.median(shown.levels.positions[floor, 2])


def test_trajectory_is_torn_where_the_scene_says(folder: Path) -> None:
    from scal3r_train.scene.visualization.camera_drawing import loop_lines, trajectory_lines
    from scal3r_train.scene.visualization.viewed_scene import ViewedScene

    shown = ViewedScene.load(folder)
    lines, colours = trajectory_lines(shown, np.ones(len(shown.world_from_cam), bool))
    assert lines.shape == colours.shape == (len(shown.world_from_cam) - 2, 2, 3)
    gaps = np.linalg.norm(lines[1:, 0] - lines[:-1, 1], axis=-1) > 1e-9
    assert np.flatnonzero(gaps).tolist() == [shown.scene.info.provided_frames[2][0] - 2]
    assert len(loop_lines(shown)[0]) == 2


def test_a_rewritten_scene_is_noticed(folder: Path) -> None:
    from scal3r_train.scene.visualization.viewer import Viewer

    viewer = Viewer(folder, None, None)
    assert not viewer.is_rewritten()
    write_example_scene(folder, floor=BLUE)
    assert viewer.is_rewritten()
    viewer.reload()
    assert not viewer.is_rewritten()
    assert (viewer.shown.levels.colours == BLUE).all(-1).any()
