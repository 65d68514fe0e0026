"""What is left out although nothing is wrong with a folder."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    """Tell the user, on stderr."""
    sys.stderr.write(f"note: {line}\n")
