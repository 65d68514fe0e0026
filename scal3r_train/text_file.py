"""Text files as people write them. Imports nothing of this project."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

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


def read_text_file(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Editors on Windows write such marks; read as letters they make the first word of the first line another.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    data = path.read_bytes()
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_wide else "utf-8-sig").replace("\r\n", "\n")
