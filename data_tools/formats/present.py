"""Which listed files of a data set are there, asking for each folder once: sets hold millions of small files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def present(root: Path, names: Iterable[str]) -> set[str]:
    """Return those of the POSIX paths relative to `root` that are there. "" never is."""
    by_folder: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        by_folder.setdefault(folder, set()).add(file)
    found = set()
    for folder, files in by_folder.items():
        try:
            here = set(os.listdir(root / folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found |= {f"{folder}/{file}" if folder else file for file in files & here}
    return found - {""}
