"""Finding files below a folder, through links."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from scal3r_train.data.io.left_out import Cause, leave_out

CLOSED = Cause("that cannot be opened", "change its permissions")


def found_below(source: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """Return the paths of all files in or below a folder whose names are wanted, sorted.

    Linked folders are entered, as people keep data on other disks; a link that leads back to a folder above it is not.
    """
    found: list[Path] = []
    _collect(source, is_wanted, frozenset(), found)
    return sorted(found)


def entered(folder: Path, above: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]] | None:
    """Return the folders above a folder and itself; None where it is one of those above it, through a link."""
    try:
        status = folder.stat()
    except OSError:
        return None
    here = above | {(status.st_dev, status.st_ino)}
    return None if len(here) == len(above) else here


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, by name; nothing, but counted, when it cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        leave_out(CLOSED, [folder.name], folder.parent, "folder")
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links
        return False


def _collect(
    folder: Path, is_wanted: Callable[[str], bool], above: frozenset[tuple[int, int]], found: list[Path]
) -> None:
    here = entered(folder, above)
    if here is None:
        return
    for entry in listed(folder):
        if is_folder(entry):
            _collect(Path(entry.path), is_wanted, here, found)
        elif is_wanted(entry.name) and _is_file(entry):
            found.append(Path(entry.path))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
