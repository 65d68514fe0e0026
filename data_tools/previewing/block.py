"""One sequence of the preview: what it is, its frames, their depth, their overlay, its cameras as a chart, its cloud.

Pieces are images [H, W, 3] uint8; sizes are (height, width). Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scal3r_data_tools.previewing.canvas import (
    FAINT,
    PADDING,
    broken_box,
    empty_box,
    grid,
    side_by_side,
    stacked,
    text_line,
    tile,
)
from scal3r_data_tools.previewing.cloud import Cloud, from_above, from_behind, read_cloud
from scal3r_data_tools.previewing.colours import DepthScale, colour_depth, overlay
from scal3r_data_tools.previewing.shown_frames import BROKEN, ShownFrame, read_shown, spread_frames
from scal3r_train.data.io.frame_io import upright_poses
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.drawing import View, positions

DPI = 100
NUM_ARROWS = 30
MAX_CAMERAS = 400  # of unordered sequences; more arrows would cover one another
ARROW_SHARE, ROOM = 0.05, 0.07  # of the larger side of the path
START, END, SHOWN = "tab:green", "tab:red", "tab:orange"
MIN_TILE_ASPECT, MAX_TILE_ASPECT = (
    0.15,
    1.1,
)  # height / width, so that portraits do not make the picture endless
WIDE_ASPECT = 0.45  # below which frames fill two rows
PANEL_ASPECT = 0.72


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


def sequence_block(record: SequenceRecord, num_frames: int, num_cloud_frames: int, width: int) -> np.ndarray:
    """Draw one sequence, `width` pixels wide. Broken frames become red boxes."""
    title = [
        text_line(f"{record.dataset} / {record.sequence_id}", width, 16, bold=True),
        text_line(in_words(record), width, 12, FAINT),
    ]
    if not record.num_frames:
        return stacked([*title, broken_box("the sequence has no frames", (40, width))], width)
    num_columns = num_frames if _aspect(record) > WIDE_ASPECT else -(-num_frames // 2)
    box = _tile_hw(record, num_columns, width)
    numbers = spread_frames(record, num_frames)
    shown = [read_shown(record, int(number), box) for number in numbers]
    rows = [grid([image_tile(frame, box) for frame in shown], num_columns)]
    if record.depth:
        rows += _depth_rows(record, shown, box, num_columns)
    if record.covisible is not None:
        rows += _covisible_row(record, numbers, num_frames, num_columns, box)
    rows.append(_panels(record, numbers, shown, num_cloud_frames, width))
    return stacked([*title, *rows], width)


def in_words(record: SequenceRecord) -> str:
    """Return what an index says of a sequence, in one line."""
    num_depth = sum(bool(name) for name in record.depth)
    height, width = record.upright_hw(0) if record.num_frames else (0, 0)
    lens = f"{record.camera_model} lens undone" if record.distortion is not None else record.camera_model
    facts = [
        f"{record.num_frames} frames of {width}x{height}",
        f"{record.num_missing} missing" if record.num_missing else "",
        lens if record.intrinsics is not None else "no intrinsics",
        _path_in_words(record),
        f"depth in {num_depth} frames ({record.depth_codec})" if num_depth else "no depth",
        "rendered" if record.is_synthetic else "real",
        "dynamic" if record.is_dynamic else "",
        "" if record.is_ordered else "unordered",
        f"turned {record.quarter_turns} x 90 degrees" if record.quarter_turns % 4 else "",
        f"split {record.split}",
        record.licence or "no licence given",
    ]
    return "; ".join(fact for fact in facts if fact)


def image_tile(frame: ShownFrame, hw: tuple[int, int]) -> np.ndarray:
    """Show the image of a frame, or a red box."""
    if frame.image is None:
        return broken_box(f"frame {frame.index}: {frame.fault}", hw)
    return tile(frame.image, hw, f"frame {frame.index}")


def _aspect(record: SequenceRecord) -> float:
    """Height / width of the tiles."""
    height, width = (max(side, 1) for side in record.upright_hw(0))
    return min(max(height / width, MIN_TILE_ASPECT), MAX_TILE_ASPECT)


def _tile_hw(record: SequenceRecord, num_columns: int, width: int) -> tuple[int, int]:
    tile_width = (width - (num_columns - 1) * PADDING) // num_columns
    return round(tile_width * _aspect(record)), tile_width


def _path_in_words(record: SequenceRecord) -> str:
    if record.cam_from_world is None:
        return "no poses"
    if not record.is_ordered:
        return "posed" + (", metric" if record.is_metric else "")
    steps = np.diff(positions(record.cam_from_world), axis=0)
    return f"path of {np.linalg.norm(steps, axis=-1).sum():.4g} {'m' if record.is_metric else 'scene units'}"


def _depth_rows(
    record: SequenceRecord, shown: Sequence[ShownFrame], hw: tuple[int, int], num_columns: int
) -> list[np.ndarray]:
    """Depth and overlay of each frame."""
    scale = DepthScale.of([frame.depth for frame in shown if frame.depth is not None])
    depths, overlays = [], []
    for frame in shown:
        if frame.depth is None or frame.is_edge is None or frame.image is None or scale is None:
            reason = frame.fault or ("no depth file" if frame.depth is None else "no valid depth")
            make = broken_box if frame.fault else empty_box
            depths.append(make(reason, hw))
            overlays.append(empty_box("", hw))
            continue
        valid, sky = (frame.depth > 0).mean(), (frame.depth < 0).mean()
        caption = f"{valid:.0%} valid" + (f", {sky:.0%} sky" if sky else "")
        depths.append(tile(colour_depth(frame.depth, scale, frame.is_dropped), hw, caption))
        overlays.append(tile(overlay(frame.image, frame.depth, frame.is_edge, scale), hw))
    rows = [grid(depths, num_columns), grid(overlays, num_columns)]
    if scale is not None:
        unit = "m" if record.is_metric else "scene units"
        width = rows[0].shape[1]
        text = f"depth from {scale.near:.3g} (red) to {scale.far:.3g} {unit} (blue), evenly in 1 / depth"
        rows.insert(0, text_line(text, width, 12, FAINT))
    return rows


def _covisible_row(
    record: SequenceRecord, numbers: np.ndarray, num_frames: int, num_columns: int, hw: tuple[int, int]
) -> list[np.ndarray]:
    """A frame and those that see most of the same."""
    assert record.covisible is not None, "asked for a sequence with covisible frames"
    middle = int(numbers[len(numbers) // 2])
    others = [int(other) for other in record.covisible[middle] if other >= 0][: num_frames - 1]
    text = f"frame {middle} and the frames that see most of the same" + ("" if others else ": none")
    tiles = [image_tile(read_shown(record, number, hw), hw) for number in (middle, *others)]
    return [text_line(text, (hw[1] + PADDING) * num_columns, 12, FAINT), grid(tiles, num_columns)]


def _panels(
    record: SequenceRecord, numbers: np.ndarray, shown: Sequence[ShownFrame], num_frames: int, width: int
) -> np.ndarray:
    """Cameras from above, and the cloud from behind and from above."""
    if record.cam_from_world is None:
        return empty_box("no poses: neither cameras nor a point cloud can be drawn", (40, width))
    poses = upright_poses(record)
    view = View.of(poses)
    cloud: Cloud | str = "cloud_frames=0"
    if num_frames:
        middle = next((f.index for f in _middle_first(shown) if f.has_depth), int(numbers[len(numbers) // 2]))
        cloud = _tried(lambda: read_cloud(record, middle, num_frames))
    height = round((width - 2 * PADDING) / 3 * PANEL_ASPECT)
    if isinstance(cloud, str):
        hw = height, (width - PADDING) // 2
        above = path_panel(record, poses, numbers, view, "cameras from above", hw)
        side = path_panel(record, poses, numbers, view.from_side(), "cameras from the side", hw)
        return stacked(
            [text_line(f"no point cloud: {cloud}", width, 12, FAINT), side_by_side([above, side])], width
        )
    hw = height, (width - 2 * PADDING) // 3
    frames = ", ".join(str(frame) for frame in sorted(cloud.frames))
    panels = [
        path_panel(record, poses, numbers, view, "cameras from above", hw),
        tile(from_behind(cloud, view.up, hw), hw, f"cloud of frames {frames}, from behind"),
        tile(from_above(cloud, view, hw), hw, "the same from above"),
    ]
    return side_by_side(panels)


def _middle_first(shown: Sequence[ShownFrame]) -> list[ShownFrame]:
    middle = (len(shown) - 1) / 2
    return [shown[place] for place in sorted(range(len(shown)), key=lambda place: abs(place - middle))]


def _tried(read: Callable[[], Cloud | str]) -> Cloud | str:
    try:
        return read()
    except BROKEN as error:
        return str(error)
