"""Memory that Python has freed and the C library keeps.

Every chunk leaves a few small results behind, and glibc keeps the large blocks that were freed between them: over
thousands of chunks a process grows though nothing in it does.
"""

from __future__ import annotations

import ctypes
import time

SECONDS_BETWEEN = 0.1


class HeapTrimmer:
    """Gives free memory back to the system, now and then; C libraries other than glibc do so by themselves."""

    def __init__(self) -> None:
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._last = time.monotonic()

    def trim(self) -> None:
        """Do it if the last time was a while ago: it takes about a millisecond."""
        if self._malloc_trim is not None and time.monotonic() - self._last > SECONDS_BETWEEN:
            self._malloc_trim(0)
            self._last = time.monotonic()
