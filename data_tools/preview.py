"""scal3r data preview: one picture of an index, per sequence some frames, their depth, and the path from above."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scal3r_data_tools.progress import progress
from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.frame_io import read_frames
from scal3r_train.data.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.transforms import ResizeRule

MAX_SEQUENCES = 12
NUM_FRAMES = 6
THUMBNAIL = ResizeRule(kind="long_side", size=256, multiple=2)
SHADES = colormaps["turbo_r"]


def main(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> int:
    """Write a contact sheet of up to MAX_SEQUENCES sequences, spread over the index, as a PNG; returns 0.

    Raises UserError when the index or a file that it names cannot be read.
    """
    index = load_index(path)
    if Path(output).suffix.lower() != ".png":
        raise UserError(f"output {output} must end in .png")
    if len(index) == 0:
        raise UserError(f"index {path} holds no sequences")
    rows = np.unique(np.linspace(0, len(index) - 1, min(MAX_SEQUENCES, len(index))).astype(int))
    figure = Figure(figsize=(2.2 * (NUM_FRAMES + 1.6), 3.4 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for block, row in progress(zip(blocks, rows, strict=True), len(rows), "preview"):
        record = index[int(row)]
        block.suptitle(f"{record.dataset} / {record.sequence_id}: {record.num_frames} frames", fontsize=10)
        grid = block.add_gridspec(2, NUM_FRAMES + 1, width_ratios=[1.0] * NUM_FRAMES + [1.6])
        shown = _shown_frames(record)
        _draw_frames(
            record, shown, [[block.add_subplot(grid[r, c]) for c in range(NUM_FRAMES)] for r in (0, 1)]
        )
        _draw_path(record, shown, block.add_subplot(grid[:, NUM_FRAMES]))
    with atomic_output(output) as temporary:
        figure.savefig(temporary, format="png")
    return 0


def path_from_above(cam_from_world: np.ndarray) -> np.ndarray:
    """Camera positions [S, 2], seen from above, for poses [S, 3, 4] in a world whose up is unknown.

    Up is the opposite of the mean of the cameras' y axes (which point down); x is the path's direction of largest
    spread.
    """
    rotation = cam_from_world[:, :, :3]
    position = -np.einsum("sji,sj->si", rotation, cam_from_world[:, :, 3])
    up = -rotation[:, 1].mean(0)
    up = up / max(float(np.linalg.norm(up)), 1e-9)
    flat = position - position.mean(0)
    flat = flat - np.outer(flat @ up, up)
    x_axis = np.linalg.svd(flat, full_matrices=False)[2][0]
    return np.stack([flat @ x_axis, flat @ np.cross(up, x_axis)], -1)


def colour_depth(depth: np.ndarray) -> np.ndarray:
    """Depth [H, W] -> RGB [H, W, 3] uint8: near is red, far is blue (by 1 / depth), invalid is black."""
    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    inverse = np.where(valid, 1 / np.where(valid, depth, 1), 0)
    low, high = np.quantile(inverse[valid], [0.02, 0.98])
    share = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)
    colour = SHADES(1 - share)[..., :3] * valid[..., None]
    return (colour * 255 + 0.5).astype(np.uint8)


def _shown_frames(record: SequenceRecord) -> np.ndarray:
    """NUM_FRAMES frames spread over a sequence, out of those with depth when only some have it."""
    choice = np.array([i for i, name in enumerate(record.depth) if name] or range(record.num_frames))
    return choice[np.linspace(0, len(choice) - 1, NUM_FRAMES).astype(int)]


def _draw_frames(record: SequenceRecord, shown: np.ndarray, axes: list[list[Axes]]) -> None:
    frames = read_frames(record, shown.tolist(), THUMBNAIL)
    for column, frame in enumerate(shown):
        picture, below = axes[0][column], axes[1][column]
        picture.imshow(frames.images[column].permute(1, 2, 0).numpy())
        picture.set_title(str(frame), fontsize=8)
        if frames.depth is not None and bool((frames.depth[column] > 0).any()):
            below.imshow(colour_depth(frames.depth[column].numpy()))
        for axis in (picture, below):
            axis.set_axis_off()


def _draw_path(record: SequenceRecord, shown: np.ndarray, axis: Axes) -> None:
    if record.cam_from_world is None:
        axis.text(0.5, 0.5, "no poses", ha="center", va="center")
        axis.set_axis_off()
        return
    xy = path_from_above(record.cam_from_world)
    axis.plot(xy[:, 0], xy[:, 1], color="0.4", linewidth=1)
    axis.scatter(xy[shown, 0], xy[shown, 1], c=np.arange(len(shown)), cmap="viridis", s=14, zorder=3)
    axis.annotate("start", xy[0], fontsize=7)
    axis.set_aspect("equal", "datalim")
    axis.tick_params(labelsize=7)
    axis.set_title("metres" if record.is_metric else "scene units", fontsize=8)
