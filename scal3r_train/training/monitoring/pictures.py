"""What the model makes of a window of the validation, as a picture: input, depth, true depth, cameras from above.

Drawn by the main process of its own first chunk, on the host, from what it predicted anyway; no generator is asked for
numbers. Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.drawing import View, positions
from scal3r_train.geometry.pose_encoding import decode_pose

if TYPE_CHECKING:  # recipes hold settings that lead here, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3ROutput

MAX_FRAMES = 4
FRAME_WIDTH = 160  # pixels of the picture
MARGIN, LABEL = 6, 14
PANEL = 3 * LABEL  # of the trajectory, around it
BACKGROUND, TEXT, UNKNOWN = (24, 24, 28), (220, 220, 220), (60, 60, 66)
TRUE_COLOUR, PREDICTED_COLOUR = (120, 200, 140), (240, 150, 60)
# From near to far: dark blue over green to yellow.
SHADES = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float)
FARTHEST_SHARE = (2, 98)  # percentiles of depth between which the shades run


@dataclass(frozen=True, eq=False)
class ChunkView:
    """One chunk, on the host: what went in, what is true, what was predicted (None for a head that did not run).

    Attributes:
        images: [S, H, W, 3] uint8.
        depth, true_depth: [S, H, W]; not positive where there is none.
        extrinsics, true_extrinsics: [S, 3, 4] cam_from_chunk.
    """

    images: np.ndarray
    true_depth: np.ndarray
    true_extrinsics: np.ndarray
    depth: np.ndarray | None
    extrinsics: np.ndarray | None


class WindowPictures:
    """Draws the first windows of a validation."""

    def __init__(self, number: int) -> None:
        """Draw so many."""
        self._number = number
        self._drawn: dict[str, np.ndarray] = {}

    def look(self, window: int, output: Scal3ROutput, batch: SequenceBatch) -> None:
        """Draw the first chunk of a window that is no padding."""
        if window >= self._number:
            return
        places = batch.chunk_mask.nonzero().tolist()
        if places:
            self._drawn[f"window_{window}"] = picture(chunk_view(output, batch, *places[0]))

    def take(self) -> dict[str, np.ndarray]:
        """Return the pictures [height, width, 3] uint8 since the last call, by window."""
        drawn, self._drawn = self._drawn, {}
        return drawn


def chunk_view(output: Scal3ROutput, batch: SequenceBatch, sequence: int, chunk: int) -> ChunkView:
    """Return a chunk of a batch with its prediction; waits for the device."""

    def host(values: Tensor) -> np.ndarray:
        return values.detach().float().cpu().numpy()

    size = (batch.images.shape[-2], batch.images.shape[-1])
    extrinsics = depth = None
    if isinstance(output.pose_encoding, Tensor):
        extrinsics = host(decode_pose(output.pose_encoding[sequence, chunk].float(), size)[0])
    if isinstance(output.depth, Tensor):
        depth = host(output.depth[sequence, chunk])
    images = batch.images[sequence, chunk].cpu().numpy().transpose(0, 2, 3, 1)
    true_depth, true_extrinsics = batch.depth[sequence, chunk], batch.extrinsics[sequence, chunk]
    return ChunkView(images, host(true_depth), host(true_extrinsics), depth, extrinsics)


def picture(view: ChunkView) -> np.ndarray:
    """Return the picture of a chunk, [height, width, 3] uint8: a few frames, never larger than about a screen."""
    num_frames, height, width = view.true_depth.shape
    frames = np.unique(np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int))
    tile = FRAME_WIDTH, max(1, round(FRAME_WIDTH * height / width))
    limits = _depth_limits(view)
    rows = [(f"input, frames {', '.join(map(str, frames))}", [view.images[frame] for frame in frames])]
    span = "none" if limits is None else f"{limits[0]:.3g} (blue) to {limits[1]:.3g} (yellow)"
    rows.append((f"true depth, {span}", [_shaded(view.true_depth[frame], limits) for frame in frames]))
    if view.depth is not None:
        scaled = view.depth * _median_ratio(view)
        rows.append(
            ("predicted depth, scaled by its median", [_shaded(scaled[frame], limits) for frame in frames])
        )
    row_height = tile[1] + LABEL + MARGIN
    left = MARGIN + len(frames) * (tile[0] + MARGIN)
    side = max(3 * row_height, 2 * FRAME_WIDTH)
    canvas = Image.new("RGB", (left + side, max(side, len(rows) * row_height + MARGIN)), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (label, tiles) in enumerate(rows):
        top = MARGIN + number * row_height
        draw.text((MARGIN, top), label, TEXT)
        for place, values in enumerate(tiles):
            at = MARGIN + place * (tile[0] + MARGIN), top + LABEL
            canvas.paste(Image.fromarray(values).resize(tile, Image.Resampling.BILINEAR), at)
    _draw_cameras(draw, view, left, side)
    return np.asarray(canvas)


def _depth_limits(view: ChunkView) -> tuple[float, float] | None:
    known = view.true_depth[view.true_depth > 0]
    if not len(known):
        return None
    near, far = (float(value) for value in np.percentile(known, FARTHEST_SHARE))
    return near, max(far, near * 1.01)


def _median_ratio(view: ChunkView) -> float:
    """Return what brings the predicted depth to the unit of the true one; 1 where there is none."""
    assert view.depth is not None
    valid = (view.true_depth > 0) & (view.depth > 0) & np.isfinite(view.depth)
    if not valid.any():
        return 1.0
    return float(np.median(view.true_depth[valid]) / np.median(view.depth[valid]))


def _shaded(depth: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Return depth [H, W] as colours by its logarithm."""
    known = np.isfinite(depth) & (depth > 0)
    if limits is None:
        limits = (float(depth[known].min()), float(depth[known].max()) * 1.01) if known.any() else (1.0, 2.0)
    near, far = np.log(limits)
    share = np.clip((np.log(np.where(known, depth, 1.0)) - near) / (far - near), 0, 1)
    anchors = np.linspace(0, 1, len(SHADES))
    colours = np.stack([np.interp(share, anchors, SHADES[:, channel]) for channel in range(3)], axis=-1)
    return np.where(known[..., None], colours, np.array(UNKNOWN, float)).astype(np.uint8)


def _draw_cameras(draw: ImageDraw.ImageDraw, view: ChunkView, left: int, side: int) -> None:
    """Draw the true path and the predicted one, brought to the same size, as seen from above."""
    looking = View.of(view.true_extrinsics)
    true_centres = positions(view.true_extrinsics)
    paths = [("true", TRUE_COLOUR, true_centres)]
    label = "cameras from above: true (green)"
    if view.extrinsics is not None:
        if np.isfinite(view.extrinsics).all():
            centres = positions(view.extrinsics)
            size = np.linalg.norm(centres)
            centres = centres * (np.linalg.norm(true_centres) / size if size > 0 else 1.0)
            paths.append(("predicted", PREDICTED_COLOUR, centres))
            label += ", predicted (orange), equally large"
        else:
            label += "; the prediction is not finite"
    draw.text((left, MARGIN), label, TEXT)
    places = [looking.places(centres) for _, _, centres in paths]
    every = np.concatenate(places)
    low, high = every.min(0), every.max(0)
    per_unit = (side - 2 * PANEL) / max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    for (_, colour, _), path in zip(paths, places, strict=True):
        at = (path - middle) * [per_unit, -per_unit] + [left + side / 2, side / 2]
        pixels = [(float(x), float(y)) for x, y in at]
        draw.line(pixels, colour, width=2)
        for x, y in pixels:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        x, y = pixels[0]
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=colour, width=2)
