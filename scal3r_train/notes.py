"""Lines for the user on stderr. Imports nothing of this project.

Names of files reach them, and a name may hold whatever a terminal obeys: control characters are written out.
"""

from __future__ import annotations

import re
import sys

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text in which every control character, sign of direction and undecodable byte is written out."""
    return CONTROL.sub(lambda found: _written_out(ord(found[0])), text)


def _written_out(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def note(line: str) -> None:
    """Tell the user, in one line."""
    sys.stderr.write(f"note: {printable(' '.join(line.split()))}\n")
