"""Files and folders of data sets: those that are numbered, those that mark a scene."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scal3r_train.config import UserError


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


def folders_with(source: Path, *names: str) -> list[Path]:
    """Folders in or below `source` that hold all of these files or folders, ordered by path.

    What lies below a folder that is found is not looked at: scenes hold thousands of images. Links are not followed.
    """
    found = []
    for folder, folders, files in os.walk(source):
        if set(names) <= {*folders, *files}:
            found.append(Path(folder))
            folders.clear()
    return sorted(found)
