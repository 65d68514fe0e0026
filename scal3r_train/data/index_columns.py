"""Arithmetic on whole columns of an index, without a Python object per frame. Results are [sequences] arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow
import pyarrow.compute

from scal3r_train.data.index import SequenceIndex


def path_lengths(index: SequenceIndex) -> np.ndarray:
    """Way of each sequence's camera [sequences] in its own unit; NaN without poses and for frames in no order."""
    found = [np.empty(0)]
    for rows, lengths, owner in _chunks(index, "cam_from_world"):
        poses = rows.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3, 4)
        position = -np.einsum("sji,sj->si", poses[:, :, :3], poses[:, :, 3])
        steps = np.linalg.norm(np.diff(position, axis=0), axis=-1)
        is_within = owner[1:] == owner[:-1]
        ways = np.bincount(owner[1:][is_within], steps[is_within], minlength=len(lengths))
        found.append(np.where(lengths > 0, ways, np.nan))
    return np.where(index.column("is_ordered"), np.concatenate(found), np.nan)


def num_named_files(index: SequenceIndex, column: str) -> np.ndarray:
    """Frames of each sequence [sequences] int64 that have a file in a column such as "depth"."""
    found = [np.empty(0, np.int64)]
    for rows, lengths, owner in _chunks(index, column):
        has_name = pyarrow.compute.binary_length(rows.flatten()).to_numpy(zero_copy_only=False) > 0
        found.append(np.bincount(owner[has_name], minlength=len(lengths)))
    return np.concatenate(found)


def counts_frames(index: SequenceIndex) -> np.ndarray:
    """Whether all times of a sequence are whole numbers [sequences] bool: frames were counted, no clock was read."""
    found = [np.empty(0, bool)]
    for rows, lengths, owner in _chunks(index, "timestamp"):
        times = rows.flatten().to_numpy(zero_copy_only=False)
        found.append(np.bincount(owner[times != np.floor(times)], minlength=len(lengths)) == 0)
    return np.concatenate(found)


def _chunks(index: SequenceIndex, column: str) -> Iterator[tuple[pyarrow.Array, np.ndarray, np.ndarray]]:
    """Yield a per-frame column piece by piece: lists, their lengths, and for each frame which of the lists it is in."""
    for rows in index.frame_column(column).chunks:
        lengths = rows.value_lengths().to_numpy(zero_copy_only=False)
        yield rows, lengths, np.repeat(np.arange(len(lengths)), lengths)
