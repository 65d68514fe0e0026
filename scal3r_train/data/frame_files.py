"""Bytes of the files that an index names: below its root, or packed into a Parquet file.

A frame of a video is named VIDEO#NUMBER, the number counting frames in the order they are shown.
"""

from __future__ import annotations

import re
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.data.packed_files import read_packed
from scal3r_train.data.sequence import SequenceRecord

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
VIDEO_FRAME = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))#(\d+)", re.IGNORECASE)


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
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"file {path} does not exist; check the index or its root") from None
    except OSError as error:
        raise UserError(f"file {path} cannot be read: {error.strerror}") from None
