"""When the images of the input were taken: read from a file, and whether it is known at all.

Shapes: S frames of the input.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import as_number, folded, is_number, read_text_file, words_of

NANOSECONDS_FROM = 1e13  # seconds since 1970 have ten digits
SEPARATOR = re.compile(r"[\s,]+")


def has_times(record: SequenceRecord) -> bool:
    """Whether timestamps are seconds; where they are 0, 1, 2, ... they are frame numbers, but for a video."""
    if video_frame(record, record.image[0]) is not None:
        return True
    return not np.array_equal(record.timestamp, np.arange(record.num_frames))


def with_times(record: SequenceRecord, path: Path) -> SequenceRecord:
    """Return the sequence with the times of a file.

    The file holds one time in seconds a line, for every image in order; or lines `time name` (TUM's rgb.txt, in any
    order; the name is that of the image, folders do not count). `#` starts a comment, a comma may stand for the blank
    between them, a name may hold blanks, its folders may be divided by backslashes; of more columns, as in TUM's
    associations, the first name counts.

    Raises:
        UserError: the file cannot be read, does not have a time for every image, or its times do not increase.
    """
    rows = _rows(path)
    named: dict[str, float] = {}
    for time, *rest in rows:
        for name in (rest[0], rest[0].split()[0]) if rest else ():
            named.setdefault(folded(_file_name(name)), as_number(time))
    if named:
        keys = [folded(PurePosixPath(name).name) for name in record.image]
        missing = [name for name, key in zip(record.image, keys, strict=True) if key not in named]
        if missing:
            raise UserError(
                f"{path} has no time for {len(missing)} of {record.num_frames} images, {missing[0]} for one; add it "
                f"(its first name is {next(iter(named))})"
            )
        times = np.array([named[key] for key in keys])
    else:
        times = np.array([as_number(words[0]) for words in rows])
        if len(times) != record.num_frames:
            raise UserError(
                f"{path} has {len(times)} times for {record.num_frames} images; give one line for each image"
            )
    if not np.isfinite(times).all() or np.abs(times).max() >= NANOSECONDS_FROM:
        raise UserError(f"{path} holds {times[np.abs(times).argmax()]:.17g}, which is no time in seconds")
    if (back := np.flatnonzero(np.diff(times) <= 0)).size:
        first, second = record.image[back[0]], record.image[back[0] + 1]
        raise UserError(
            f"{path}: times must increase, but {second} ({times[back[0] + 1]:.9g} s) comes after "
            f"{first} ({times[back[0]]:.9g} s)"
        )
    return replace(record, timestamp=times)


def _file_name(text: str) -> str:
    """The last part of a path as a file names it, whichever way its slashes lean."""
    return PurePosixPath(text.strip().replace("\\", "/")).name


def _rows(path: Path) -> list[list[str]]:
    """Lines as words, of which the first is a number."""
    rows: list[list[str]] = []
    try:
        for number, line in enumerate(read_text_file(path).splitlines(), 1):
            words = SEPARATOR.split(line.partition("#")[0].strip(" \t,"), maxsplit=1) if line.strip() else []
            if not words or not words[0]:
                continue
            if not is_number(words[0]):
                if not rows and number == 1 and not any(map(is_number, words_of(line))):
                    continue  # a heading
                raise UserError(f"{path}:{number}: '{words[0]}' is no time in seconds")
            rows.append(words)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"input.timestamps {path} cannot be read: {error}") from None
    if not rows:
        raise UserError(f"input.timestamps {path} holds no times")
    return rows
