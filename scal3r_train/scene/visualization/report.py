"""`scal3r report`: one file that shows a scene, report.html; it needs no network and runs no scripts.

Shapes: S frames, N points.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scal3r_train.config import write_text_atomically, writing
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.drawing import View
from scal3r_train.notes import answer
from scal3r_train.parallel.claimed_output import claimed
from scal3r_train.scene.scene import Scene, load_scene
from scal3r_train.scene.visualization.charts import histogram, profile
from scal3r_train.scene.visualization.cloud_pictures import cloud_pictures
from scal3r_train.scene.visualization.ground_truth import GroundTruth, load_ground_truth
from scal3r_train.scene.visualization.html import STYLE, Html, image, joined, tag, void
from scal3r_train.scene.visualization.report_tables import (
    header,
    loops_section,
    run_section,
    seams_section,
    warnings,
)
from scal3r_train.scene.visualization.thumbnails import Thumbnails
from scal3r_train.scene.visualization.trajectory_chart import trajectory_chart

REPORT_NAME = "report.html"
CLOUD_HW = (400, 620)
NUM_PREVIEWS, PREVIEW_SIDE = 10, 240


def main(folder: Path, truth: str | None) -> int:
    """Write the report of a scene folder and print where it is, and the errors if the truth is given; returns 0.

    Raises:
        UserError: the folder is no scene, or the truth cannot be used.
    """
    scene = load_scene(folder)
    true = None if truth is None else load_ground_truth(truth, scene)
    with claimed(folder / REPORT_NAME, "report", is_folder=False):
        path = write_report(folder, scene, true)
    answer(str(path), *(() if true is None else (true.line,)))
    return 0


def write_report(folder: Path, scene: Scene | None = None, truth: GroundTruth | None = None) -> Path:
    """Write report.html into a scene folder and return its path.

    Args:
        folder: holds the scene; when it is still a partial folder the report moves along.
        scene: what it holds, if that is in memory.
        truth: drawn beside the trajectory, its errors stated.

    Raises:
        UserError: the folder is no scene, or damaged.
    """
    path = folder / REPORT_NAME
    text = report(load_scene(folder) if scene is None else scene, truth)
    with writing(f"scene {folder}"):
        write_text_atomically(path, text)
    return path


def report(scene: Scene, truth: GroundTruth | None = None) -> str:
    """Return the page."""
    name = str(scene.info.input.get("sequence_id", "scene"))
    view = View.of(invert_extrinsics(scene.world_from_cam).numpy())
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name} - Scal3R"),
        # What the page may do, should anything in it ever not be what it seems: show itself.
        void(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        header(scene, name, truth),
        warnings(scene),
        _trajectory(scene, view, truth),
        _cloud(scene, view),
        _previews(scene),
        seams_section(scene),
        loops_section(scene),
        run_section(scene),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _trajectory(scene: Scene, view: View, truth: GroundTruth | None) -> Html:
    """Return the path from above and its heights."""
    heights = view.heights(scene.world_from_cam[:, :, 3].numpy())
    lines = [(heights, "height")]
    if truth is not None:
        true = np.full(len(heights), np.nan)
        true[truth.frames.numpy()] = view.heights(truth.world_from_cam[:, :, 3].numpy())
        lines.append((true, "truth"))
    caption = (
        f"height of the camera in {scene.info.units}, above the mean; up is what most cameras hold upright"
    )
    return joined(
        [
            tag("h2", "Trajectory"),
            trajectory_chart(scene, view, truth),
            profile(np.arange(len(heights), dtype=float), lines, "frame", caption),
        ]
    )


def _cloud(scene: Scene, view: View) -> Html:
    """Return pictures of the points and how confident they are."""
    pictures = cloud_pictures(scene, view, CLOUD_HW)
    if not pictures:
        return joined([tag("h2", "Points"), tag("p", "The scene has no points.")])
    confidence = scene.confidence[np.isfinite(scene.confidence)]
    shown = [image(picture, caption) for picture, caption in pictures]
    parts = [tag("h2", "Points"), shown[0], tag("div", *shown[1:], class_="pictures")]
    if len(confidence):
        parts.append(histogram(confidence, "confidence of the points, the highest percent in the last bar"))
    return joined(parts)


def _previews(scene: Scene) -> Html | None:
    """Return a few input images, None where none is to be had."""
    images = Thumbnails(scene)
    count = min(NUM_PREVIEWS, scene.info.num_frames)
    numbers = np.linspace(0, scene.info.num_frames - 1, count).round().astype(int)
    found = [(number, images.of(number, PREVIEW_SIDE)) for number in np.unique(numbers).tolist()]
    figures = [
        image(pixels, f"frame {number}: {scene.frames[number].name}")
        for number, pixels in found
        if pixels is not None
    ]
    if not figures:
        return None
    return joined([tag("h2", "Input"), tag("div", *figures, class_="previews")])
