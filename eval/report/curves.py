"""Paths of all methods over the truth: from above, axis by axis, and their error along the way.

Shapes: S true poses, N poses of a method; times of the files are frame numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scal3r_eval.results import ALIGNED_NAME, EvalResults
from scal3r_eval.score_sequence import truth_path
from scal3r_eval.sequences import folder_name
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.drawing import View
from scal3r_train.metrics.trajectory_io import read_trajectory
from scal3r_train.scene.visualization.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    frame,
    path_data,
    picture,
    profile,
    round_step,
)
from scal3r_train.scene.visualization.html import Html, joined, tag

MAX_HEIGHT, MIN_HEIGHT, MARGIN = 560, 200, 30
BEYOND = 0.25  # of the truth's extent that is shown around it, whatever the estimates do
NUM_COLOURS = 8
METHOD_STYLE = "".join(
    f"svg .m{number} {{ stroke: {colour}; stroke-width: 2; }} .key.m{number} {{ background: {colour}; }} "
    f"circle.m{number} {{ fill: {colour}; }}\n"
    for number, colour in enumerate(
        ("#2f6fde", "#17935c", "#b0479f", "#d64541", "#8a7a12", "#1797a8", "#7a5cd0", "#8b8f98")
    )
)


@dataclass(frozen=True, eq=False)
class Curve:
    """A method's path in the truth's world.

    Attributes:
        name: of its run.
        style: CSS class.
        frames: [N] frame numbers.
        centres: [N, 3] metres.
    """

    name: str
    style: str
    frames: np.ndarray
    centres: np.ndarray


@dataclass(frozen=True, eq=False)
class Paths:
    """The truth of a sequence and the paths of those methods that did not fail, first run each.

    Attributes:
        frames: [S] frame numbers of the truth.
        world_from_cam: [S, 3, 4].
        curves: one a method.
    """

    frames: np.ndarray
    world_from_cam: np.ndarray
    curves: tuple[Curve, ...]

    @property
    def centres(self) -> np.ndarray:
        """True camera centres [S, 3]."""
        return self.world_from_cam[:, :, 3]

    def at_truth(self, curve: Curve, values: np.ndarray) -> np.ndarray:
        """Return values [N, ...] of a curve at the frames of the truth [S, ...], NaN where it has none."""
        result = np.full((len(self.frames), *values.shape[1:]), np.nan)
        result[np.searchsorted(self.frames, curve.frames)] = values
        return result


def style_of(results: EvalResults, method: str) -> str:
    """Return the CSS class of a method's colour."""
    return f"m{list(results.scores).index(method) % NUM_COLOURS}"


def load_paths(output_dir: Path, results: EvalResults, sequence: str) -> Paths:
    """Return the paths of a sequence. Raises UserError when one of their files is missing or damaged."""
    folder = folder_name(sequence)
    truth = read_trajectory(truth_path(output_dir, folder))
    assert truth.timestamps is not None, "written with frame numbers"
    curves = []
    for method, runs in results.runs.items():
        if results.scores[method][sequence][0].failure is not None:
            continue
        found = read_trajectory(output_dir / runs[0].folder / folder / ALIGNED_NAME)
        assert found.timestamps is not None, "written with frame numbers"
        centres = found.world_from_cam[:, :, 3].numpy()
        curves.append(Curve(method, style_of(results, method), found.timestamps.numpy(), centres))
    return Paths(truth.timestamps.numpy(), truth.world_from_cam.numpy(), tuple(curves))


def from_above(paths: Paths) -> Html:
    """Return truth and methods as seen from above; what goes far beyond the truth is cut off."""
    view = _view(paths)
    true = view.places(paths.centres)
    spread = np.ptp(true, axis=0)
    low, high = true.min(0) - BEYOND * spread.max() / 2, true.max(0) + BEYOND * spread.max() / 2
    room = np.maximum(high - low, 1e-9)
    per_unit = float(min((WIDTH - 2 * MARGIN) / room[0], (MAX_HEIGHT - 2 * MARGIN) / room[1]))
    height = max(MIN_HEIGHT, room[1] * per_unit + 2 * MARGIN)

    def pixels(centres: np.ndarray) -> np.ndarray:
        places = view.places(centres) - (low + high) / 2
        return places * [per_unit, -per_unit] + [WIDTH / 2, height / 2]

    layers = [
        tag("path", tag("title", curve.name), d=path_data(pixels(curve.centres)), class_=curve.style)
        for curve in paths.curves
    ]
    layers.append(tag("path", tag("title", "truth"), d=path_data(pixels(paths.centres)), class_="truth"))
    x, y = pixels(paths.centres[:1])[0].tolist()
    layers.append(tag("circle", tag("title", "start"), cx=f"{x:.1f}", cy=f"{y:.1f}", r=6, class_="start"))
    length = round_step(WIDTH / 8 / per_unit)
    bar = tag("path", d=f"M{MARGIN / 2:.1f},{height - 12:.1f}h{length * per_unit:.1f}", class_="ruler")
    layers += [bar, tag("text", f"{length:g} m", x=MARGIN / 2, y=f"{height - 18:.1f}")]
    drawn = picture(*layers, width=WIDTH, height=height, label="trajectories from above")
    return tag("figure", drawn, tag("figcaption", legend([(one.style, one.name) for one in paths.curves])))


def axis_by_axis(paths: Paths) -> Html:
    """Return the two directions of the view from above and the height, by frame."""
    view = _view(paths)
    parts = []
    for number, caption in enumerate(
        ("along the largest extent, metres", "across it, metres", "height, metres")
    ):
        lines = [
            (paths.at_truth(curve, _coordinates(view, curve.centres)[:, number]), curve.style)
            for curve in paths.curves
        ]
        lines.append((_coordinates(view, paths.centres)[:, number], "truth"))
        parts.append(profile(paths.frames, lines, "frame", caption))
    return joined(parts)


def error_along_path(paths: Paths) -> Html:
    """Return the distance between aligned and true camera by the way travelled."""
    steps = np.linalg.norm(np.diff(paths.centres, axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    lines = [
        (np.linalg.norm(paths.at_truth(curve, curve.centres) - paths.centres, axis=1), curve.style)
        for curve in paths.curves
    ]
    return profile(
        travelled, lines, "metres travelled", "distance from the true camera after alignment, metres"
    )


def runtime_chart(results: EvalResults) -> Html | None:
    """Return seconds over frames of all reconstructions, both by powers of ten; None without any."""
    found = [
        (method, one.num_frames, one.resources.seconds)
        for method, sequences in results.scores.items()
        for runs in sequences.values()
        for one in runs
        if one.resources is not None and one.resources.seconds > 0
    ]
    if not found:
        return None
    frames, seconds = (np.array([row[place] for row in found], float) for place in (1, 2))
    x = Axis(frames.min() / 1.5, frames.max() * 1.5, LEFT, WIDTH - RIGHT, is_log=True)
    y = Axis(seconds.min() / 1.5, seconds.max() * 1.5, HEIGHT - BOTTOM, TOP, is_log=True)
    dots = [
        tag(
            "circle",
            tag("title", f"{method}: {count} frames, {time:.2f} s"),
            cx=f"{float(x.place(count)):.1f}",
            cy=f"{float(y.place(time)):.1f}",
            r=4,
            class_=style_of(results, method),
        )
        for method, count, time in found
    ]
    label = "seconds of a reconstruction by number of frames"
    drawn = picture(frame(x, y, "frames", " s"), *dots, height=HEIGHT, label=label)
    names = dict.fromkeys(method for method, _, _ in found)
    return tag(
        "figure",
        drawn,
        tag("figcaption", legend([(style_of(results, name), name) for name in names], truth=False)),
    )


def legend(entries: Sequence[tuple[str, str]], *, truth: bool = True) -> Html:
    """Return what the colours mean."""
    every = [*entries, *([("truth", "truth")] if truth else [])]
    return joined(tag("span", tag("i", class_=f"key {style}"), name, class_="entry") for style, name in every)


def _view(paths: Paths) -> View:
    return View.of(invert_extrinsics(torch.from_numpy(paths.world_from_cam)).numpy())


def _coordinates(view: View, centres: np.ndarray) -> np.ndarray:
    """Return [N, 3]: the view's two axes and the height."""
    return np.concatenate([view.places(centres), view.heights(centres)[:, None]], axis=1)
