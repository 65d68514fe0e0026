"""Videos: each file is one sequence without cameras.

SRC is one video, or a folder with any number of them at any depth (.mp4, .mov, .avi, .mkv, .webm, .m4v, .mpg, .mpeg).
Frames are named VIDEO#NUMBER and are decoded when they are read; nothing is unpacked. Timestamps are the seconds at
which frames are shown, counted from the first, so that a variable frame rate is kept. Rotation that the file asks for,
as of phones, is applied. Packets are read, one frame is decoded for its size. It needs PyAV.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.data.index.source import record_from_video
from scal3r_train.data.io.frame_files import VIDEO_SUFFIXES
from scal3r_train.data.io.left_out import DAMAGED, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of the video, or of all videos below the folder, ordered by path."""
    source = source.resolve()
    if source.is_file():
        yield record_from_video(source)
        return
    paths = found_below(source, lambda name: Path(name).suffix.lower() in VIDEO_SUFFIXES)
    problems: list[UserError] = []
    for path in paths:
        try:
            record = record_from_video(path)
        except UserError as error:  # of many videos some may be damaged; all of them are another matter
            problems.append(error)
            leave_out(DAMAGED, [f"{path.relative_to(source)} ({error})"], source, "video")
        else:
            yield replace(record, sequence_id=path.relative_to(source).as_posix())
    if problems and len(problems) == len(paths):
        raise problems[0]
