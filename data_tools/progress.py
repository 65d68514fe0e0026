"""A progress bar for long work, silent when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Iterate with a bar on stderr when it is a terminal."""
    yield from tqdm(items, total=total, desc=description, disable=not sys.stderr.isatty(), leave=False)
