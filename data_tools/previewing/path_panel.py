"""The cameras of a sequence from above or the side, as a chart. Shapes: S frames, H W pixels."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.view import View, positions

DPI = 100
NUM_ARROWS = 30
MAX_CAMERAS = 400  # of unordered sequences; more arrows would cover one another
ARROW_SHARE, ROOM = 0.05, 0.07  # of the larger side of the path
START, END, SHOWN = "tab:green", "tab:red", "tab:orange"


def path_panel(
    record: SequenceRecord,
    cam_from_world: np.ndarray,
    shown: np.ndarray,
    view: View,
    title: str,
    hw: tuple[int, int],
) -> np.ndarray:
    """Chart the upright cameras [S, 3, 4] in a view, [H, W, 3] uint8.

    Ordered frames are a path with a start and an end, others single cameras; arrows tell where cameras look; the frames
    `shown` above are numbered.
    """
    figure = Figure(figsize=(hw[1] / DPI, hw[0] / DPI), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = view.places(positions(cam_from_world))
    if record.is_ordered:
        axes.plot(places[:, 0], places[:, 1], color="0.55", linewidth=1.2, zorder=1)
    size = max(float(np.ptp(places, axis=0).max()), 1e-3)
    arrows = _arrow_frames(len(places), is_ordered=record.is_ordered)
    looks = ARROW_SHARE * size * cam_from_world[arrows, 2, :3] @ view.axes.T
    axes.quiver(
        *places[arrows].T, *looks.T, angles="xy", scale_units="xy", scale=1, units="dots",
        width=1.6, headwidth=5, headlength=6, color="tab:blue", zorder=2,
    )  # fmt: skip
    axes.scatter(places[shown, 0], places[shown, 1], color=SHOWN, s=16, zorder=3)
    for frame in shown:
        axes.annotate(str(frame), places[frame], (3, 3), textcoords="offset points", fontsize=7, zorder=5)
    if record.is_ordered:
        axes.scatter(places[0, 0], places[0, 1], color=START, s=46, marker="o", zorder=4, label="start")
        axes.scatter(places[-1, 0], places[-1, 1], color=END, s=42, marker="s", zorder=4, label="end")
        axes.legend(fontsize=7, loc="best", framealpha=0.7, borderpad=0.3)
    # Room for the arrows, and for a camera that does not move.
    corners = np.stack([places.min(0) - ROOM * size, places.max(0) + ROOM * size])
    axes.update_datalim(corners)
    axes.margins(0)
    axes.set_aspect("equal", "datalim")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)
    axes.set_title(f"{title}, {'metres' if record.is_metric else 'scene units'}", fontsize=9, loc="left")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _arrow_frames(num_frames: int, *, is_ordered: bool) -> np.ndarray:
    most = NUM_ARROWS if is_ordered else MAX_CAMERAS
    return np.unique(np.linspace(0, num_frames - 1, min(most, num_frames)).astype(int))
