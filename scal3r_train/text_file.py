"""Text files as people write them. Imports nothing of this project."""

from __future__ import annotations

import codecs
from pathlib import Path


def is_number(word: str) -> bool:
    """Return whether a word is a number as Python reads it."""
    try:
        float(word)
    except ValueError:
        return False
    return True


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
