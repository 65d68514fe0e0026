"""The cameras from above as SVG: one colour a chunk, tears, loops, ground truth.

Shapes: S frames, K chunks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scal3r_train.geometry.drawing import View
from scal3r_train.scene.scene import Scene
from scal3r_train.scene.visualization.charts import MAX_POINTS, path_data, picture, round_step
from scal3r_train.scene.visualization.colours import chunk_colours
from scal3r_train.scene.visualization.ground_truth import GroundTruth
from scal3r_train.scene.visualization.html import Html, joined, tag

WIDTH, MIN_HEIGHT, MAX_HEIGHT, MARGIN = 900, 220, 640, 36
MAX_LOOPS = 300


def trajectory_chart(scene: Scene, view: View, truth: GroundTruth | None) -> Html:
    """Return the trajectory as the observer of `view` sees it, as SVG with its legend."""
    cameras = view.places(scene.world_from_cam[:, :, 3].numpy())
    true = None if truth is None else view.places(truth.world_from_cam[:, :, 3].numpy())
    every = cameras if true is None else np.concatenate([cameras, true])
    low, high = every.min(0), every.max(0)
    spread = np.maximum(high - low, 1e-9)
    room = WIDTH - 2 * MARGIN
    per_unit = float(min(room / spread[0], (MAX_HEIGHT - 2 * MARGIN) / spread[1]))
    height = max(MIN_HEIGHT, spread[1] * per_unit + 2 * MARGIN)
    middle = (low + high) / 2

    def pixels(places: np.ndarray) -> np.ndarray:
        return (places - middle) * [per_unit, -per_unit] + [WIDTH / 2, height / 2]

    at = pixels(cameras)
    layers = [_loops(scene.info.loops, at)]
    if truth is not None and true is not None:
        layers.append(tag("path", d=path_data(pixels(true)), class_="truth"))
    layers += [_chunks(scene, at), _marks(scene, at), _ruler(per_unit, height, scene.info.units)]
    drawn = picture(*layers, width=WIDTH, height=height, label="trajectory from above")
    return tag("figure", drawn, tag("figcaption", _legend(scene, truth)))


def _chunks(scene: Scene, at: np.ndarray) -> Html:
    """Return one line a chunk, each up to the first frame of the next one unless the trajectory is torn there."""
    colours = chunk_colours(len(scene.info.provided_frames))
    share = MAX_POINTS / max(len(at), 1)
    lines = []
    for number, (start, stop) in enumerate(scene.info.provided_frames):
        end = stop if number + 1 in scene.info.breaks else stop + 1
        part = at[start:end]
        red, green, blue = colours[number].tolist()
        budget = max(2, round(share * len(part)) + 1)
        where = tag("title", f"chunk {number}: frames {start} to {stop - 1}")
        lines.append(
            tag(
                "path",
                where,
                d=path_data(part, budget),
                stroke=f"#{red:02x}{green:02x}{blue:02x}",
                class_="chunk",
            )
        )
    return joined(lines)


def _loops(loops: tuple[dict[str, Any], ...], at: np.ndarray) -> Html:
    """Return the loop edges, rejected ones first, so that accepted ones lie on top."""
    lines = []
    for loop in sorted(loops[:MAX_LOOPS], key=lambda loop: bool(loop.get("accepted"))):
        frames = loop.get("frames", ())
        if len(frames) != 2 or not all(0 <= frame < len(at) for frame in frames):
            continue
        (x0, y0), (x1, y1) = at[frames[0]], at[frames[1]]
        accepted = bool(loop.get("accepted"))
        verdict = "accepted" if accepted else "rejected"
        where = tag("title", f"frames {frames[0]} and {frames[1]}, {verdict}: {loop.get('reason', '')}")
        ends = [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4 if accepted else 3, class_=verdict)
            for x, y in ((x0, y0), (x1, y1))
        ]
        line = tag("path", where, d=f"M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}", class_=f"loop {verdict}")
        lines.append(joined([line, *ends]))
    return joined(lines)


def _marks(scene: Scene, at: np.ndarray) -> Html:
    """Return start and end, and a cross at every tear."""
    marks = []
    for number in scene.info.breaks:
        if number < len(scene.info.provided_frames):
            x, y = at[scene.info.provided_frames[number][0]]
            where = tag("title", f"the trajectory is torn before chunk {number}")
            cross = f"M{x - 7:.1f},{y - 7:.1f}l14,14m0,-14l-14,14"
            marks.append(tag("path", where, d=cross, class_="break"))
    for (x, y), name in ((at[0], "start"), (at[-1], "end")):
        marks.append(tag("circle", tag("title", name), cx=f"{x:.1f}", cy=f"{y:.1f}", r=6, class_=name))
    return joined(marks)


def _ruler(per_unit: float, height: float, units: str) -> Html:
    """Return a line of a round length."""
    length = round_step(WIDTH / 8 / per_unit)
    bar = tag("path", d=f"M{MARGIN / 2:.1f},{height - 12:.1f}h{length * per_unit:.1f}", class_="ruler")
    return joined([bar, tag("text", f"{length:g} {units}", x=MARGIN / 2, y=f"{height - 18:.1f}")])


def _legend(scene: Scene, truth: GroundTruth | None) -> Html:
    """Return what the colours mean."""
    accepted = sum(bool(loop.get("accepted")) for loop in scene.info.loops)
    rejected, num_breaks = len(scene.info.loops) - accepted, len(scene.info.breaks)
    entries = [("chunk", "chunks, blue to red in order of time"), ("start", "start"), ("end", "end")]
    if truth is not None:
        entries.append(("truth", "ground truth"))
    for style, name, count in (
        ("break", "tears", num_breaks),
        ("accepted", "loops accepted", accepted),
        ("rejected", "loops rejected", rejected),
    ):
        if count:
            entries.append((style, f"{name} ({count})"))
    parts = [tag("span", tag("i", class_=f"key {style}"), text, class_="entry") for style, text in entries]
    if len(scene.info.loops) > MAX_LOOPS:
        parts.append(tag("span", f"the first {MAX_LOOPS} loops are drawn", class_="entry"))
    return joined(parts)
