"""Frames as a preview shows them: what training would read, brought to the size of a tile; a broken one says why.

Where depth jumps is marked, to be compared with the outlines in the image.
Shapes: H W pixels of the tile; sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from scal3r_train.data.camera.resize import ResizeAndCrop
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth, read_pixels
from scal3r_train.data.sequence import SequenceRecord

BEND = 0.06  # of the inverse depth, from pixel to pixel
MIN_BEND = 0.003  # of the nearest pixels' inverse depth: creases of far ground are no jumps
LINE_SHARE = 0.12  # of the area of a smaller pixel, that an edge must cover
# What readers raise, and what wrong numbers of an index (a size of zero, a camera of NaN) make of the arithmetic.
BROKEN = (ValueError, ArithmeticError, OSError, cv2.error)


def depth_edges(depth: np.ndarray) -> np.ndarray:
    """Where depth [H, W] jumps: [H, W] bool, the nearer side of each jump. Sky counts as infinitely far.

    The inverse depth of a plane is linear in the image, whatever its slope, so its second difference is zero. Pixels
    beside invalid ones are no edges.
    """
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0)
    inverse[depth == 0] = np.nan
    edges = np.zeros(depth.shape, bool)
    if not (depth > 0).any():
        return edges
    least = MIN_BEND * float(np.quantile(inverse[depth > 0], 0.98))
    for axis in (0, 1):
        values, found = np.moveaxis(inverse, axis, 0), np.moveaxis(edges, axis, 0)  # views
        before, here, after = values[:-2], values[1:-1], values[2:]
        with np.errstate(invalid="ignore"):  # NaN compares as false
            bend = 2 * here - before - after
            found[1:-1] |= bend > BEND * np.maximum(here, np.maximum(before, after)) + least
    return edges


def edges_at_tile(is_edge: np.ndarray, cover: ResizeAndCrop) -> np.ndarray:
    """Edges [h, w] bool at the resolution of the depth file -> [H, W] bool of a tile; lines stay when it is smaller."""
    height, width = cover.resized_hw
    is_smaller = height < is_edge.shape[0]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_NEAREST
    share = cv2.resize(is_edge.astype(np.float32), (width, height), interpolation=how)
    top, left, (rows, columns) = cover.top, cover.left, cover.target_hw
    return share[top : top + rows, left : left + columns] > LINE_SHARE


@dataclass(frozen=True)
class ShownFrame:
    """One frame, undistorted and upright.

    Attributes:
        index: in its sequence.
        image: [H, W, 3] uint8, None when it cannot be read.
        depth: [H, W] float32 z-depth, 0 invalid, -1 sky; None without, or when it cannot be read.
        is_edge: [H, W] bool, where depth jumps; None without depth.
        is_dropped: [H, W] bool, where the depth file holds a value that a mask or the limits of the index take away.
        intrinsics: [4] float64 fx fy cx cy of the tile, pixel centres at half integers, None when unknown.
        cam_from_world: [3, 4] float64, None when unknown.
        fault: why image or depth is missing; "" when all is well.
    """

    index: int
    image: np.ndarray | None
    depth: np.ndarray | None
    is_edge: np.ndarray | None
    is_dropped: np.ndarray | None
    intrinsics: np.ndarray | None
    cam_from_world: np.ndarray | None
    fault: str = ""

    @property
    def has_depth(self) -> bool:
        """Whether any pixel has depth."""
        return self.depth is not None and bool((self.depth > 0).any())


def frames_with_depth(record: SequenceRecord) -> np.ndarray:
    """Return the frames [N] int64 that name a depth file."""
    return np.flatnonzero([bool(name) for name in record.depth])


def spread_frames(record: SequenceRecord, num: int) -> np.ndarray:
    """Return up to `num` frames spread over a sequence, out of those with depth when only some have it."""
    choice = frames_with_depth(record)
    if not len(choice):
        choice = np.arange(record.num_frames)
    return choice[np.unique(np.linspace(0, len(choice) - 1, min(num, len(choice))).astype(int))]


def fitted_hw(image_hw: tuple[int, int], box_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image scaled to fit into a box, at least one pixel."""
    ratio = min(box_hw[0] / image_hw[0], box_hw[1] / image_hw[1])
    height, width = (max(round(side * ratio), 1) for side in image_hw)
    return min(height, box_hw[0]), min(width, box_hw[1])


def read_shown(record: SequenceRecord, index: int, box_hw: tuple[int, int]) -> ShownFrame:
    """Read a frame, scaled to fit into a box; never raises because of broken files or numbers, but says so."""
    try:
        input_hw = record.upright_hw(index)
        hw = fitted_hw(input_hw, box_hw)
        pixels = read_pixels(record, index, hw)
        cover = ResizeAndCrop.plan(input_hw, hw)
        camera = frame_camera(record, index)
        depth = None if pixels.depth is None else cover.depth(pixels.depth)
        is_dropped = None
        if depth is not None:
            measured = _as_measured(record, index)
            is_dropped = None if measured is None else (cover.depth(measured) != 0) & (depth == 0)
        return ShownFrame(
            index=index,
            image=np.ascontiguousarray(cover.image_fast(pixels.image)),
            depth=depth,
            is_edge=None if pixels.depth is None else edges_at_tile(depth_edges(pixels.depth), cover),
            is_dropped=is_dropped,
            intrinsics=None if camera.intrinsics is None else cover.moved(camera.intrinsics),
            cam_from_world=camera.extrinsics,
            fault=pixels.fault,
        )
    except BROKEN as error:
        return ShownFrame(
            index, None, None, None, None, None, None, " ".join(str(error).split()) or repr(error)
        )


def _as_measured(record: SequenceRecord, index: int) -> np.ndarray | None:
    """Depth without masks and limits, None when there are none of them."""
    if not (record.mask or record.max_depth or record.max_depth_percentile):
        return None
    return read_frame_depth(replace(record, mask=(), max_depth=0.0, max_depth_percentile=0.0), index)
