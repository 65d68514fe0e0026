"""The points of a scene that an export keeps, block by block: above a confidence, one per voxel, at most so many.

Shapes: n points of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.inference.export.options import ExportOptions
from scal3r_train.inference.export.selection import select_points
from scal3r_train.inference.ply import AXES, PlyReader, colours_of, positions_of
from scal3r_train.inference.point_cloud import PointCloud


def kept_points(reader: PlyReader, options: ExportOptions, folder: Path) -> Iterator[np.ndarray]:
    """Yield the points that the options leave, [n] of `ply.VERTEX`, in the order of the file.

    The file is read once for every rule that has to know all points: the mean confidence, voxels or a bound.

    Args:
        reader: the scene's points.
        options: the rules.
        folder: of a temporary file, for voxels or a bound.

    Raises:
        UserError: a point is not finite, or none of several is left.
    """
    threshold = _threshold(reader, options)
    chosen = None
    if options.voxel_size is not None or (options.max_points or reader.num_points) < reader.num_points:
        chosen = select_points(
            _confident_clouds(reader, threshold),
            reader.num_points,
            options.voxel_size or 0,
            options.max_points,
            folder,
        )
    num_kept, start = 0, 0
    for vertices in _finite_blocks(reader):
        keep = vertices["confidence"] >= threshold
        if chosen is not None:
            # Blocks begin at whole bytes, all but the last of them holding a multiple of 8 points.
            keep = np.unpackbits(
                chosen[start // 8 : -(-(start + len(vertices)) // 8)], count=len(vertices)
            ).view(bool)
        start += len(vertices)
        kept = vertices if keep.all() else vertices[keep]
        num_kept += len(kept)
        if len(kept):
            yield kept
    if reader.num_points and not num_kept:
        raise UserError(
            f"no point of {reader.path} reaches confidence {threshold:g}; lower min_confidence (or its ratio)"
        )


def _threshold(reader: PlyReader, options: ExportOptions) -> float:
    """Return the least confidence that counts, as float32 stores it."""
    if options.min_confidence is not None:
        return float(np.float32(options.min_confidence))
    if options.min_confidence_ratio is None or not reader.num_points:
        return -np.inf
    total = sum(float(vertices["confidence"].sum(dtype=np.float64)) for vertices in _finite_blocks(reader))
    return options.min_confidence_ratio * total / reader.num_points


def _confident_clouds(reader: PlyReader, threshold: float) -> Iterator[PointCloud]:
    start = 0
    for vertices in _finite_blocks(reader):
        which = np.flatnonzero(vertices["confidence"] >= threshold)
        kept = vertices[which]
        yield PointCloud(
            positions_of(kept).astype(np.float64), colours_of(kept), kept["confidence"], start + which
        )
        start += len(vertices)


def _finite_blocks(reader: PlyReader) -> Iterator[np.ndarray]:
    for vertices in reader.blocks():
        if not all(np.isfinite(vertices[name]).all() for name in (*AXES, "confidence")):
            raise UserError(
                f"point cloud {reader.path} has a point that is not finite; reconstruct the scene again"
            )
        yield vertices
