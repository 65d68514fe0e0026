"""Make the pictures of docs/images: the report and the viewer, with a scene made from game_loop's ground truth.

python -m benchmarks.screenshots [--scene FOLDER] [--truth FILE] [--source ../shared/data/game_loop]
python -m benchmarks.screenshots --demo runs/demo        the README's, of what `make demo` left there

The images of game_loop are under the Free Art License; so are these pictures.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.truth_scene import make_truth_scene
from scal3r_train.config import atomic_output
from scal3r_train.scene.scene import load_scene
from scal3r_train.scene.visualization.ground_truth import load_ground_truth
from scal3r_train.scene.visualization.report import write_report
from scal3r_train.scene.visualization.viewed_scene import ViewedScene
from scal3r_train.scene.visualization.viewer import viewing
from tests.scene.visualization.browser import Page, chromium_page

MAX_BYTES = 150_000
REST_S = 12.0
CLOSE_NOTES = "document.querySelectorAll('.mantine-Notification-closeButton').forEach(one => one.click())"


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=Path, help="show this scene instead")
    parser.add_argument("--truth", help="its ground truth")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/game_loop"))
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--demo", type=Path, help="make the README's pictures, of this folder")
    arguments = parser.parse_args()
    if arguments.demo is not None:
        show_demo(arguments.demo, arguments.output)
        return
    with tempfile.TemporaryDirectory() as temporary, chromium_page() as page:
        folder, truth = arguments.scene, arguments.truth
        if folder is None:
            folder, truth = Path(temporary) / "scene", str(arguments.source / "poses.txt")
            make_truth_scene(arguments.source, folder)
        show_report(page, folder, truth, arguments.output)
        show_viewer(page, folder, truth, arguments.output)


def show_demo(demo: Path, output: Path) -> None:
    """Take the demo's trajectories as they are, and a picture of the points of its last video."""
    with Image.open(demo / "trajectories.png") as image:
        save(output / "demo_trajectories.png", np.asarray(image.convert("RGB")))
    folder = max((demo / "scenes").iterdir())
    with tempfile.TemporaryDirectory() as temporary, chromium_page() as page:
        copy = Path(temporary) / folder.name
        shutil.copytree(folder, copy)
        page.open(write_report(copy, load_scene(copy)).as_uri(), 1000, 960)
        page.evaluate(
            "[...document.querySelectorAll('h2')].find(one => one.textContent === 'Points').scrollIntoView()"
        )
        save(output / "demo_points.png", page.screenshot())


def show_report(page: Page, folder: Path, truth: str | None, output: Path) -> None:
    """Take pictures of the upper part in light and of the lower part in dark."""
    scene = load_scene(folder)
    path = write_report(folder, scene, None if truth is None else load_ground_truth(truth, scene))
    page.open(path.as_uri(), 1000, 1300)
    save(output / "report.png", page.screenshot())
    page.evaluate(
        "[...document.querySelectorAll('h2')].find(one => one.textContent === 'Points').scrollIntoView()"
    )
    save(output / "report_points.png", page.screenshot())
    page.open(path.as_uri(), 1000, 1240, dark=True)
    page.evaluate(
        "[...document.querySelectorAll('h2')].find(one => one.textContent === 'Seams').scrollIntoView()"
    )
    save(output / "report_dark.png", page.screenshot())


def show_viewer(page: Page, folder: Path, truth: str | None, output: Path) -> None:
    """Take pictures of the whole scene and of one place."""
    shown = ViewedScene.load(folder, truth)
    frame = shown.scene.info.num_frames // 3
    camera = shown.world_from_cam[frame]
    step = shown.step
    place = camera[:, 3] - 9 * step * camera[:, 2] + 3 * step * np.array([0, 0, 1.0])
    target = camera[:, 3] + 6 * step * camera[:, 2] + 2 * step * camera[:, 0]
    close = "&".join(
        f"{name}={','.join(f'{value:.4f}' for value in point)}"
        for name, point in (("initialCameraPosition", place), ("initialCameraLookAt", target))
    )
    with viewing(folder, truth=truth) as url:
        for name, query in (("viewer.png", ""), ("viewer_street.png", f"?{close}")):
            page.open(url + "/" + query, 1280, 800)
            time.sleep(REST_S)
            page.evaluate(CLOSE_NOTES)
            time.sleep(1)
            save(output / name, page.screenshot())
        page.open("about:blank", 1280, 800)


def save(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG of at most MAX_BYTES: with fewer colours, then smaller."""
    image = Image.fromarray(pixels)
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        size = round(image.width * share), round(image.height * share)
        for colours in (256, 160):
            small = image.resize(size, Image.Resampling.LANCZOS).quantize(colours, dither=Image.Dither.NONE)
            stream = io.BytesIO()
            small.save(stream, "PNG", optimize=True)
            if len(stream.getvalue()) <= MAX_BYTES:
                with atomic_output(path) as temporary:
                    temporary.write_bytes(stream.getvalue())
                print(f"{path}: {size[0]}x{size[1]}, {colours} colours, {len(stream.getvalue())} bytes")
                return
    raise RuntimeError(f"{path} would be larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
