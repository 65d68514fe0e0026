"""Lines for the user: everything that is printed goes through here. Imports nothing of this project.

Names of files reach them, and a name may hold whatever a terminal obeys: control characters are written out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

NO_TEXT = re.compile(r"[\ud800-\udfff]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text in which every control character, sign of direction and undecodable byte is written out."""
    return CONTROL.sub(lambda found: _written_out(ord(found[0])), text)


def is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8; one of a file on disk may hold bytes that are none."""
    return NO_TEXT.search(name) is None


def _written_out(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def tell(*lines: str) -> None:
    """Write lines to stderr."""
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))


def answer(*lines: str) -> None:
    """Write lines to stdout: what a command was asked for."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def note(line: str) -> None:
    """Tell the user, in one line."""
    tell(f"note: {printable(' '.join(line.split()))}")


def new_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return rich's console, for tables and bars, control characters written out and markup taken as text.

    Cells of a table should be `printable` before: their width is measured earlier.
    """
    from rich.console import Console  # noqa: PLC0415  most commands print no table
    from rich.segment import Segment  # noqa: PLC0415

    class SafeConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                lines = segment.text.split("\n")
                is_clean = segment.control is not None or not any(map(CONTROL.search, lines))
                yield segment if is_clean else segment._replace(text="\n".join(map(printable, lines)))

    return SafeConsole(stderr=stderr, width=width, markup=False, emoji=False)
