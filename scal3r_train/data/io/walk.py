"""Finding files below a folder, through links."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def found_below(source: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """Return the paths of all files in or below a folder whose names are wanted, sorted.

    Linked folders are entered, as people keep data on other disks; a link that leads back to a folder above it is not.
    """
    found: list[Path] = []
    _collect(source, is_wanted, frozenset(), found)
    return sorted(found)


def _collect(
    folder: Path, is_wanted: Callable[[str], bool], above: frozenset[tuple[int, int]], found: list[Path]
) -> None:
    status = folder.stat()
    here = above | {(status.st_dev, status.st_ino)}
    if len(here) == len(above):
        return
    with os.scandir(folder) as entries:
        below = sorted(entries, key=lambda entry: entry.name)
    for entry in below:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link in a circle of links
            continue
        if is_folder:
            _collect(Path(entry.path), is_wanted, here, found)
        elif is_wanted(entry.name) and entry.is_file():
            found.append(Path(entry.path))
