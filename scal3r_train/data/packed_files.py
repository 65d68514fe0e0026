"""Files packed into Parquet, one row a frame, read a few rows at a time: from a disk or, by ranges, over a network.

Every process keeps the last row groups that it read, so that the frames of a window cost one request for each group.
"""

from __future__ import annotations

from functools import lru_cache

import fsspec
import pyarrow.parquet

from scal3r_train.config import UserError
from scal3r_train.data.sequence import PackedFrames

NUM_OPEN_FILES = 16
NUM_KEPT_GROUPS = 4  # of pack.ROWS_PER_GROUP frames each


def read_packed(packed: PackedFrames, name: str) -> bytes:
    """Return the content of a file named COLUMN#FRAME.

    Raises UserError when it was not there to be packed, or the Parquet file cannot be read.
    """
    column, _, frame = name.partition("#")
    row = packed.first_row + int(frame)
    try:
        group, first_row = _group_of(packed.location, row)
        cell = _read_group(packed.location, group, column)[row - first_row].as_py()
    except (OSError, pyarrow.ArrowInvalid, KeyError, IndexError, ValueError) as error:
        raise UserError(f"{packed.location} row {row}: {column} cannot be read: {error}") from None
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if not content:
        raise UserError(
            f"{packed.location} row {row}: holds no {column}; the file could not be read when it was packed"
        )
    return content


@lru_cache(maxsize=NUM_OPEN_FILES)
def _open(location: str) -> pyarrow.parquet.ParquetFile:
    file_system, path = fsspec.core.url_to_fs(location)
    return pyarrow.parquet.ParquetFile(file_system.open(path, "rb"))


def _group_of(location: str, row: int) -> tuple[int, int]:
    """Row group that holds a row, and that group's first row; all groups but the last of a sequence are full."""
    first = 0
    metadata = _open(location).metadata
    for group in range(metadata.num_row_groups):
        num = metadata.row_group(group).num_rows
        if row < first + num:
            return group, first
        first += num
    raise IndexError(f"the file has {first} rows")


@lru_cache(maxsize=NUM_KEPT_GROUPS * 2)
def _read_group(location: str, group: int, column: str) -> pyarrow.ChunkedArray:
    return _open(location).read_row_group(group, columns=[column]).column(column)
