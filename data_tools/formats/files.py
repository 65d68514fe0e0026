"""Finding the folders and files of a layout, and which of the listed ones are there.

Each folder is listed once: sets hold millions of small files.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.data.index.source import is_image_name
from scal3r_train.data.io.image_codec import DamagedImageError, ImageHeader, read_image_header
from scal3r_train.data.io.left_out import DAMAGED, IMAGE, TURNED, leave_out, note_once
from scal3r_train.data.io.walk import entered, is_folder, listed
from scal3r_train.text_file import folded


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

    `is_wanted` decides by the names of what a folder holds. Linked folders are entered, but no folder that is above
    itself. Raises UserError when source is no folder.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the one that holds the dataset")
    yield from _folders_where(source, is_wanted, max_depth, frozenset())


def _folders_where(
    folder: Path,
    is_wanted: Callable[[frozenset[str]], bool],
    max_depth: int,
    above: frozenset[tuple[int, int]],
) -> Iterator[Path]:
    here = entered(folder, above)
    if here is None:
        return
    names = {entry.name: is_folder(entry) for entry in listed(folder)}
    if is_wanted(frozenset(names)):
        yield folder
    elif max_depth > 0:
        for name in sorted(name for name, is_one in names.items() if is_one):
            yield from _folders_where(folder / name, is_wanted, max_depth - 1, here)


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


def readable(root: Path, names: Iterable[str]) -> dict[str, ImageHeader]:
    """Return the headers of images by name, leaving out those that cannot be read.

    Raises UserError when none can, or one is no colour image.
    """
    headers: dict[str, ImageHeader] = {}
    damaged: dict[str, DamagedImageError] = {}
    for name in names:
        try:
            headers[name] = read_image_header(root / name)
        except DamagedImageError as error:
            damaged[name] = error
    if damaged and not headers:
        raise next(iter(damaged.values()))
    leave_out(DAMAGED, list(damaged), root, IMAGE)
    return headers


class Names:
    """Files below a folder by what a list calls them, which need not be how they are spelled on the disk.

    Tried in turn: the name; with slashes for backslashes; without looking at capitals and at how letters with marks
    are composed (macOS writes them in two parts); an image without its suffix. What two files fit is not found.
    """

    def __init__(self, root: Path) -> None:
        """Look below `root`; folders are listed when they are needed."""
        self._root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> str:
        """Return the path of the file relative to the folder, "" when there is none."""
        for candidate in dict.fromkeys((name, name.strip().replace("\\", "/"))):
            if candidate and (self._root / candidate).is_file():
                return candidate.removeprefix("./")
        path = Path(".")
        *folders, last = name.strip().replace("\\", "/").split("/")
        for part in folders:
            known = part in ("", ".", "..") or (self._root / path / part).is_dir()
            found = part if known else self._only(self._root / path, folded(part))
            if not found and part:
                return ""
            path /= found
        found = self._only(self._root / path, folded(last)) or self._only(
            self._root / path, f"{folded(last)}."
        )
        if not found or not (self._root / path / found).is_file():
            return ""
        note_once(
            "spelling", f"{self._root}: {path / found} is read for {name}; names are matched without spelling"
        )
        return (path / found).as_posix()

    def nearest(self, name: str) -> str:
        """Return a phrase with the name in the same folder that is most alike, "" when nothing is there."""
        folder = Path(name.replace("\\", "/")).parent
        folder = folder if (self._root / folder).is_dir() else Path(".")
        there = sorted(entry.name for entry in listed(self._root / folder) if not entry.name.startswith("."))
        alike = difflib.get_close_matches(Path(name).name, there, n=1, cutoff=0.0)
        return f"there is {(folder / alike[0]).as_posix()}" if alike else ""

    def _only(self, folder: Path, key: str) -> str:
        """The only entry that folds to the key; a dot at its end stands for the suffix of any image."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            for entry in listed(folder):
                listing.setdefault(folded(entry.name), []).append(entry.name)
                if is_image_name(entry.name):
                    listing.setdefault(f"{folded(Path(entry.name).stem)}.", []).append(entry.name)
            self._listings[folder] = listing
        found = self._listings[folder].get(key, [])
        return found[0] if len(found) == 1 else ""


def note_turned(root: Path, names: Sequence[str]) -> None:
    """Leave images out because their files ask to be turned: their poses belong to the stored pixels."""
    leave_out(TURNED, names, root, IMAGE)
