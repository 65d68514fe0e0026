"""Where depth jumps, to be compared with the outlines in the image. Shapes: H W pixels."""

from __future__ import annotations

import cv2
import numpy as np

from scal3r_train.data.transforms import Cover

BEND = 0.06  # of the inverse depth, from pixel to pixel
MIN_BEND = 0.003  # of the nearest pixels' inverse depth: creases of far ground are no jumps
LINE_SHARE = 0.12  # of the area of a smaller pixel, that an edge must cover


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


def edges_at_tile(is_edge: np.ndarray, cover: Cover) -> np.ndarray:
    """Edges [h, w] bool at the resolution of the depth file -> [H, W] bool of a tile; lines stay when it is smaller."""
    height, width = cover.resized_hw
    is_smaller = height < is_edge.shape[0]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_NEAREST
    share = cv2.resize(is_edge.astype(np.float32), (width, height), interpolation=how)
    top, left, (rows, columns) = cover.top, cover.left, cover.target_hw
    return share[top : top + rows, left : left + columns] > LINE_SHARE
