"""Memory that Python has freed and the C library keeps.

Every chunk leaves a few small results behind, and glibc keeps the large blocks that were freed between them: over
thousands of chunks a process grows though nothing in it does.
"""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress

SECONDS_BETWEEN = 0.1


class HeapTrimmer:
    """Gives free memory back to the system, now and then."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._last = time.monotonic()

    def trim(self) -> None:
        """Do it if the last time was a while ago: it takes about a millisecond."""
        if time.monotonic() - self._last < SECONDS_BETWEEN:
            return
        with suppress(AttributeError):  # only glibc has it, and needs it
            self._library.malloc_trim(0)
        self._last = time.monotonic()
