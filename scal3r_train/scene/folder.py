"""The folder of a scene: a partial one beside it while a run writes, and how that takes its place, whole or not at all.

Readers of a folder that is replaced find either the old scene or the new one, never none and no mix (`read_steady`).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from scal3r_train.config import UserError, write_text_atomically, writing
from scal3r_train.parallel.claimed_output import remove_leftovers_within
from scal3r_train.text_file import parse_json

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


INFO_NAME = "scene.json"
WORK_NAME, IDENTITY_NAME, TIMINGS_NAME = "work", "run.json", "timings.json"


def partial_folder(output: Path) -> Path:
    """Return the folder beside `output` in which a scene is written until it is complete."""
    return output.with_name(f"{output.name}.partial")


def refuse_occupied(output: Path, *, overwrite: bool) -> None:
    """Raise a UserError when a scene may not be written at `output`; before hours of work, not after.

    Only an empty folder, or with `overwrite` an older scene, is ever replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / INFO_NAME).is_file():
        raise UserError(f"output {output} exists and is no scene folder; choose another name")
    if not overwrite:
        raise UserError(
            f"output {output} holds another scene; choose another name, or add export.overwrite=true"
        )


def work_folder(output: Path) -> Path:
    """Return the folder inside the partial one that holds what a run needs only until it is complete."""
    return partial_folder(output) / WORK_NAME


def start_scene_folder(output: Path, identity: dict[str, Any] | None = None) -> None:
    """Make the partial folder anew, or go on with that of an interrupted run of the same identity.

    Args:
        output: the scene folder to be.
        identity: all that the result depends on, as JSON values; None: never go on with another run's work.
    """
    partial, work = partial_folder(output), work_folder(output)
    with writing(f"output folder {partial}"):
        if identity is not None and _same_identity(work / IDENTITY_NAME, identity):
            remove_leftovers_within(partial)
            return
        shutil.rmtree(partial, ignore_errors=True)
        work.mkdir(parents=True)
        if identity is not None:
            write_text_atomically(work / IDENTITY_NAME, json.dumps(identity))


def discard_scene_folder(output: Path) -> bool:
    """Remove the partial folder of a run that failed, unless it holds finished work; return whether it is gone."""
    work = work_folder(output)
    if (work / IDENTITY_NAME).is_file() and _has_finished_work(work):
        return False
    shutil.rmtree(partial_folder(output), ignore_errors=True)
    return True


def publish_scene_folder(output: Path) -> None:
    """Rename the partial folder to `output`; an older scene there goes once the new one is in place."""
    shutil.rmtree(work_folder(output), ignore_errors=True)
    swap_into_place(partial_folder(output), output)


def _has_finished_work(work: Path) -> bool:
    """Whether a memory or a chunk is finished; states and descriptors alone save nothing worth keeping."""
    return any(work.rglob("memory_*.safetensors")) or any(work.glob("*/predictions/*.safetensors"))


def _same_identity(path: Path, identity: dict[str, Any]) -> bool:
    try:
        return bool(parse_json(path.read_text(encoding="utf-8")) == json.loads(json.dumps(identity)))
    except (OSError, ValueError):
        return False
