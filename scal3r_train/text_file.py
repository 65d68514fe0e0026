"""Files as people give them: their bytes, text and JSON. Imports nothing of this project."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 1 << 30
MAX_FILE_BYTES = 1 << 32
DIGITS_OF_INT64 = 19

# Exponents may be Fortran's (1.5D-03). Python also reads 1_000, which is a name, and the digits of all scripts.
NUMBER = re.compile(
    r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE
)
SEPARATOR = re.compile(r"[\s,;]+")


def is_number(word: str) -> bool:
    """Return whether a word is a number as files of numbers have them, `nan` and `inf` among them."""
    return NUMBER.fullmatch(word) is not None


def as_number(word: str) -> float:
    """Return the number that a word is. Raises ValueError quoting it for anything else."""
    if not is_number(word):
        raise ValueError(f"'{word[:40]}' is no number")
    return float(word.lower().replace("d", "e"))


def words_of(line: str) -> list[str]:
    """Return the words of a line of numbers, divided by blanks, tabs, commas or semicolons."""
    return [word for word in SEPARATOR.split(line.strip()) if word]


def folded(name: str) -> str:
    """Return a file name without its spelling: capitals, and letters with marks in one part or in two, are the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def read_file_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises OSError for what is too large, and for devices and pipes, without an end."""
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file but a device or a pipe", str(path))
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes into is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_text_file(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Editors on Windows write such marks; read as letters they make the first word of the first line another.

    Raises:
        OSError: it cannot be read, or is longer than max_bytes.
        UnicodeDecodeError: it is in another encoding.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_wide else "utf-8-sig").replace("\r\n", "\n")


def whole_number(text: str) -> int | float:
    """Return a whole number of a JSON document; beyond 64 bits a float, perhaps infinite, which numpy can take."""
    return int(text) if len(text) < DIGITS_OF_INT64 else float(text)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON document; whole numbers as `whole_number`.

    Raises:
        ValueError: it is none, or lists and mappings are in one another too often to be read.
    """
    try:
        return json.loads(text, parse_int=whole_number)
    except RecursionError:
        raise ValueError("lists and mappings too deep in one another") from None
