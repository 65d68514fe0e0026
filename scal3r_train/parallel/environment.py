"""Environment variables as they were, whatever a library writes there or must not read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def kept_variables(names: Iterable[str], *, hidden: bool = False) -> Iterator[None]:
    """Leave these variables as they are now when the body ends, also by an error; `hidden`: unset within it."""
    before = {name: os.environ.get(name) for name in names}
    if hidden:
        for name in before:
            os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
