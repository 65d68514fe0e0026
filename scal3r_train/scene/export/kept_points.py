"""Which points of a scene an export keeps: above a confidence, one per voxel, at most so many; read block by block.

The rules for voxels and for the bound are those of `point_cloud.thin`, in memory that does not grow with the cloud: the
points' voxel hashes are spread over buckets of consecutive hashes in a temporary file, and one bucket is thinned at a
time, in ascending order, so that the draw of `max_points` can stop early. What is kept of a point is one bit.

Shapes: N points of the whole cloud, n of a part of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.scene.export.options import ExportOptions
from scal3r_train.scene.ply import AXES, PlyReader, colours_of, positions_of
from scal3r_train.scene.point_cloud import PointCloud, voxel_hashes

ENTRY = np.dtype([("key", "<u8"), ("index", "<i8"), ("confidence", "<f4")])
POINTS_PER_BUCKET = 1 << 19
MAX_BUCKETS = 256  # one byte, which numpy sorts by radix


def select_points(
    clouds: Iterable[PointCloud], num_points: int, voxel_size: float, max_points: int | None, folder: Path
) -> np.ndarray:
    """Return which points `thin` would keep, as bits.

    Args:
        clouds: parts of the cloud in any order; `source` is the index of a point in the whole cloud.
        num_points: N, of the whole cloud.
        voxel_size: as in `thin`.
        max_points: as in `thin`; None: no bound.
        folder: of the temporary file, 20 bytes a point.

    Returns:
        [ceil(N / 8)] uint8, the bits of `numpy.packbits`.
    """
    num_buckets = 1
    while num_buckets < MAX_BUCKETS and num_buckets * POINTS_PER_BUCKET < num_points:
        num_buckets *= 2
    chosen = np.zeros(-(-num_points // 8), np.uint8)
    room = num_points if max_points is None else max_points
    with tempfile.TemporaryFile(dir=folder, prefix=".points.") as file:
        buckets = _Buckets(file, num_buckets)
        for cloud in clouds:
            buckets.add(cloud, voxel_size)
        for entries in buckets.ascending():
            winners = _winners(entries)[:room]
            room -= len(winners)
            np.bitwise_or.at(chosen, winners >> 3, (128 >> (winners & 7)).astype(np.uint8))
            if room == 0:
                break
    return chosen


class _Buckets:
    """Entries on disk, by the leading bits of their key."""

    def __init__(self, file: BinaryIO, num_buckets: int) -> None:
        self._file, self._num_bits = file, num_buckets.bit_length() - 1
        self._parts: list[list[tuple[int, int]]] = [
            [] for _ in range(num_buckets)
        ]  # offset and length in bytes

    def add(self, cloud: PointCloud, voxel_size: float) -> None:
        entries = np.empty(len(cloud), ENTRY)
        entries["key"] = voxel_hashes(cloud, voxel_size, seed=0)
        entries["index"], entries["confidence"] = cloud.source, cloud.confidence
        bucket = self._bucket_of(entries["key"])
        entries = entries[np.argsort(bucket, kind="stable")]
        lengths = np.bincount(bucket, minlength=len(self._parts)) * ENTRY.itemsize
        offset = self._file.tell()
        for parts, length in zip(self._parts, lengths.tolist(), strict=True):
            if length:
                parts.append((offset, length))
                offset += length
        self._file.write(entries.view(np.uint8).data)

    def ascending(self) -> Iterator[np.ndarray]:
        """Yield the entries of each bucket that has any."""
        for parts in self._parts:
            content = bytearray()
            for offset, length in parts:
                self._file.seek(offset)
                content += self._file.read(length)
            if content:
                yield np.frombuffer(content, ENTRY)

    def _bucket_of(self, keys: np.ndarray) -> np.ndarray:
        if self._num_bits == 0:
            return np.zeros(len(keys), np.uint8)
        return (keys >> np.uint64(64 - self._num_bits)).astype(np.uint8)


def _winners(entries: np.ndarray) -> np.ndarray:
    """Return the index of every key's most confident entry, of equals the first, [n] int64 in the order of keys."""
    keys = np.ascontiguousarray(entries["key"])
    order = np.argsort(keys)
    keys, index, confidence = keys[order], entries["index"][order], entries["confidence"][order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    best = np.repeat(np.maximum.reduceat(confidence, starts), np.diff(starts, append=len(keys)))
    candidates = np.where(confidence == best, index, np.iinfo(np.int64).max)
    return np.minimum.reduceat(candidates, starts)


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
