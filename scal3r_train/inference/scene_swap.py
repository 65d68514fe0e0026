"""A folder that is replaced as a whole under its readers: either the old one or the new one, never none and no mix."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from scal3r_train.config import UserError

AT_FDCWD = -100  # Linux: relative paths start at the working directory
RENAME_EXCHANGE = 2
MAX_TRIES = 100

Result = TypeVar("Result")


def swap_into_place(new: Path, target: Path) -> None:
    """Give the folder `new` the name `target`; a folder that had it goes.

    On Linux the two change names in one step. Elsewhere, and on file systems that cannot, there is a moment without
    `target` between two renames.
    """
    if not target.exists():
        new.rename(target)
    elif exchange(new, target):
        shutil.rmtree(new)
    else:
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one step (renameat2); False when that cannot be done here."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def read_steady(folder: Path, read: Callable[[], Result]) -> Result:
    """Return what `read` finds in a folder, read again whenever the folder was replaced meanwhile.

    Raises:
        UserError: as `read`, when the folder stayed the same.
    """
    for _ in range(MAX_TRIES):
        before = _stamp(folder)
        try:
            result = read()
        except UserError:
            if _stamp(folder) == before:
                raise
        else:
            if _stamp(folder) == before:
                return result
    return read()


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from the one that replaces it: numbers of files are used again, times are not."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
