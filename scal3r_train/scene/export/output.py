"""Where an export goes: a file or a folder that appears whole or not at all and never replaces other things."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError, atomic_output, write_text_atomically
from scal3r_train.parallel.claimed_output import partial_of
from scal3r_train.scene.folder import swap_into_place
from scal3r_train.text_file import parse_json

RECORD_NAME = "scal3r_export.json"  # in every folder that an export has written: what it is, and what it has
PROBE_BYTES = 1 << 16
ENTRIES_KEY, NUM_FILES_KEY = "entries", "num_files"


def own_error(path: Path, error: Exception) -> OSError:
    """Return what the operating system has against more bytes in a file, for libraries that keep it to themselves."""
    try:
        with path.open("ab") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as own:
        return own
    return OSError(errno.EIO, str(error).strip().splitlines()[0], str(path))


def refuse_output(output: Path, scene: Path, *, is_folder: bool, overwrite: bool) -> None:
    """Raise a UserError when an export may not be written at `output`.

    A file is replaced with `overwrite`; a folder only if it is empty, or with `overwrite` if an export wrote all of it.
    """
    if scene.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(
            f"output {output} lies in the scene folder, which may be replaced; choose another place"
        )
    if not output.exists() or (is_folder and output.is_dir() and not any(output.iterdir())):
        return
    if output.is_dir() != is_folder:
        wanted, found = ("folder", "file") if is_folder else ("file", "folder")
        raise UserError(f"output {output} is a {found}, this format makes a {wanted}; choose another name")
    if is_folder and not _is_export(output):
        raise UserError(f"output {output} exists and holds other things than an export; choose another name")
    if not overwrite:
        raise UserError(f"output {output} exists; choose another name, or add --overwrite")


@contextmanager
def new_output(output: Path, *, is_folder: bool, record: dict[str, Any]) -> Iterator[Path]:
    """Give a temporary path, a folder with `is_folder`, that becomes `output` on success and goes after any error.

    `record` is kept in the folder, for those who find it and for `refuse_output`.
    """
    if not is_folder:
        with atomic_output(output) as temporary:
            yield temporary
        return
    temporary = partial_of(output)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        entries = sorted([RECORD_NAME, *(path.name for path in temporary.iterdir())])
        whole = {**record, ENTRIES_KEY: entries, NUM_FILES_KEY: _num_files(temporary) + 1}
        write_text_atomically(temporary / RECORD_NAME, json.dumps(whole, indent=1) + "\n")
        swap_into_place(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_export(folder: Path) -> bool:
    """Whether a folder holds what an export wrote, and nothing that came later."""
    try:
        record = parse_json((folder / RECORD_NAME).read_text(encoding="utf-8"))
        found = {path.name for path in folder.iterdir()}
        return found <= set(record[ENTRIES_KEY]) and _num_files(folder) <= record[NUM_FILES_KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _num_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))
