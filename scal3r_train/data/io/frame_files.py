"""Bytes of the files that an index names: below its root, or packed into a Parquet file.

A frame of a video is named VIDEO#NUMBER, the number counting frames in the order they are shown. Packed files are one
row a frame, read a few rows at a time: from a disk or, by ranges, over a network. Every process keeps the last row
groups that it read, so that the frames of a window cost one request for each group.
"""

from __future__ import annotations

import os
import re
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet

from scal3r_train.config import UserError
from scal3r_train.data.sequence import PackedFrames, SequenceRecord
from scal3r_train.text_file import read_file_bytes

NUM_OPEN_FILES = 16
NUM_KEPT_GROUPS = 4  # of pack.ROWS_PER_GROUP frames each, for each of four columns
NUM_ATTEMPTS = 4
MAX_DIGITS = 10  # of a frame's number


def read_packed(packed: PackedFrames, name: str) -> bytes:
    """Return the content of a file named COLUMN#FRAME.

    Raises UserError when it was not there to be packed, or the Parquet file cannot be read.
    """
    column, _, frame = name.partition("#")
    if not (frame.isdecimal() and len(frame) < MAX_DIGITS):
        raise UserError(f"{packed.location}: '{name}' names no frame of it, as image#0 would; pack it anew")
    row = packed.first_row + int(frame)
    try:
        cell = _read_patiently(packed.location, row, column)
    except Exception as error:  # network packages raise errors of their own
        raise UserError(f"{packed.location} row {row}: {column} cannot be read: {error}") from None
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if not content:
        raise UserError(
            f"{packed.location} row {row}: holds no {column}; the file could not be read when it was packed"
        )
    return content


def _read_patiently(location: str, row: int, column: str) -> Any:
    """Read a cell; of a URL up to NUM_ATTEMPTS times, since connections break."""
    for attempt in range(NUM_ATTEMPTS):
        try:
            with _LOCK:
                group, first_row = _group_of(location, row)
                return _read_group(location, group, column)[row - first_row].as_py()
        except Exception:
            if "://" not in location or attempt + 1 == NUM_ATTEMPTS:
                raise
            _forget()
            time.sleep(2**attempt)
    raise AssertionError("not reached")


@lru_cache(maxsize=NUM_OPEN_FILES)
def _open(location: str) -> pyarrow.parquet.ParquetFile:
    if "://" not in location:
        return pyarrow.parquet.ParquetFile(location)
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


@lru_cache(maxsize=NUM_KEPT_GROUPS * 4)
def _read_group(location: str, group: int, column: str) -> pyarrow.ChunkedArray:
    return _open(location).read_row_group(group, columns=[column]).column(column)


def _forget() -> None:
    _read_group.cache_clear()
    _open.cache_clear()


# A reading process must not share the position in a file, or a connection, with the process that it was forked from.
_LOCK = threading.Lock()
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
os.register_at_fork(after_in_child=_forget)


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
VIDEO_FRAME = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))#(\d{{1,{MAX_DIGITS}}})", re.IGNORECASE
)


def video_frame(record: SequenceRecord, name: str) -> tuple[Path, int] | None:
    """Return the video file and the number of a frame of a video, None for the name of another file."""
    match = VIDEO_FRAME.fullmatch(name)
    return (record.root / match[1], int(match[2])) if match else None


def read_file(record: SequenceRecord, name: str) -> bytes:
    """Return the content of a file that a record names. Raises UserError when it is missing or cannot be read."""
    if record.packed is not None:
        return read_packed(record.packed, name)
    path = record.root / name
    try:
        return read_file_bytes(path)
    except FileNotFoundError:
        raise UserError(f"file {path} does not exist; check the index or its root") from None
    except OSError as error:
        raise UserError(f"file {path} cannot be read: {error.strerror}") from None
