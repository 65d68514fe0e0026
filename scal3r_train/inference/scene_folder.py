"""The folder of a scene while it grows and once it is complete: it appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.inference.scene_swap import swap_into_place

INFO_NAME = "scene.json"
WORK_NAME, IDENTITY_NAME, TIMINGS_NAME = "work", "run.json", "timings.json"


def partial_folder(output: Path) -> Path:
    """Return the folder beside `output` in which a scene grows until it is complete."""
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
    try:
        if identity is not None and _same_identity(work / IDENTITY_NAME, identity):
            return
        shutil.rmtree(partial, ignore_errors=True)
        work.mkdir(parents=True)
        if identity is not None:
            write_text_atomically(work / IDENTITY_NAME, json.dumps(identity))
    except OSError as error:
        raise UserError(f"output folder {partial} cannot be made: {error.strerror}; check the path") from None


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
    """Whether a round of visits or a chunk is finished; states and descriptors alone save nothing worth keeping."""
    return any(work.rglob("memory_*.safetensors")) or any(work.glob("*/predictions/*.safetensors"))


def _same_identity(path: Path, identity: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(identity)))
    except (OSError, ValueError):
        return False


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Let what cannot be written into a scene folder be a UserError that says why."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"scene {folder} cannot be written: {error.strerror or error}; make room and run again"
        ) from error
