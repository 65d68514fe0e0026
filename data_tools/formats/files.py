"""Finding the folders and files of a layout, and which of the listed ones are there.

Each folder is listed once: sets hold millions of small files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.notes import note


def files_by_number(folder: Path, pattern: str) -> dict[int, str]:
    """Names of the files that match the whole pattern (any case), by the integer in its first group.

    Raises UserError when the folder does not exist or two files carry the same number.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist; is this the dataset's own layout?")
    found: dict[int, str] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise UserError(f"{folder}: {found[number]} and {name} have the same number; keep one")
        found[number] = name
    return found


def folders_where(
    source: Path, is_wanted: Callable[[frozenset[str]], bool], max_depth: int
) -> Iterator[Path]:
    """Folders at most max_depth levels below source, itself included, ordered by path, not searching below them.

    `is_wanted` decides by the names of what a folder holds. Raises UserError when source is no folder.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the one that holds the dataset")
    with os.scandir(source) as entries:
        names = {entry.name: entry.is_dir() for entry in entries}
    if is_wanted(frozenset(names)):
        yield source
    elif max_depth > 0:
        for name in sorted(name for name, is_folder in names.items() if is_folder):
            yield from folders_where(source / name, is_wanted, max_depth - 1)


def relative_name(folder: Path, source: Path) -> str:
    """Path of a folder below the source, with slashes; the folder's own name when it is the source."""
    return folder.name if folder == source else folder.relative_to(source).as_posix()


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


def note_turned(root: Path, names: Sequence[str]) -> None:
    """Say that images were left out because their files ask to be turned: their poses belong to the stored pixels."""
    if names:
        plural = "s are" if len(names) > 1 else " is"
        note(
            f"{root}: {len(names)} image{plural} left out, {names[0]} for one: to be turned by EXIF, poses belong "
            "to the stored pixels; turn the pixels and pose them anew, or remove the tag"
        )
