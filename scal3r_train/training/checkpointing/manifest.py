"""manifest.json of a checkpoint: what is in its files, checked in every entry before anything is read by it.

It ends with a hash of all its other entries, so that one that was altered, by a disk or by hand, is noticed as a file
is whose content differs. Manifests of format 2, which earlier versions wrote, have none; their entries are checked all
the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError

from scal3r_train.config import StrictModel, UserError
from scal3r_train.refusal import refusal_line
from scal3r_train.training.checkpointing.adapter_base import Base
from scal3r_train.training.checkpointing.checkpoint_files import WEIGHT, Piece
from scal3r_train.training.progress import Progress

FORMAT_VERSION, FORMAT_WITHOUT_HASH = 3, 2
MANIFEST, OWN_HASH = "manifest.json", "sha256"
STEP_NAME = re.compile(r"step_([0-9]{8})")

Count = Annotated[int, Field(ge=0)]
Word = Annotated[int, Field(ge=0, lt=1 << 32)]
Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ParameterEntry(StrictModel):
    """A parameter: its shape, and whether it was trained."""

    shape: tuple[Count, ...]
    is_trained: bool


class FileEntry(StrictModel):
    """What a file of the checkpoint is to be."""

    bytes: Count
    sha256: Hash


class RandomState(StrictModel):
    """The generators of one process, as `checkpoint.random_state` returns them."""

    python: tuple[int, Annotated[tuple[Word, ...], Field(min_length=625, max_length=625)], float | None]
    numpy: tuple[Annotated[tuple[Word, ...], Field(min_length=624, max_length=624)], Count, Count, float]
    torch: Hex
    cuda: Hex | None = None


class Manifest(StrictModel):
    """All entries; `Piece`, `Progress` and `Base` say what theirs mean."""

    model_config = ConfigDict(allow_inf_nan=True)  # a loss that is none is a state of a run too

    format: Literal[2, 3]
    code_version: str
    engine: str
    world_size: Annotated[int, Field(ge=1)]
    progress: Progress
    base: Base | None = None
    parameters: dict[str, ParameterEntry]
    random: tuple[RandomState, ...]
    pieces: tuple[Piece, ...]
    files: dict[str, FileEntry]
    sha256: Hash | None = None


def sealed(entries: Mapping[str, Any]) -> str:
    """Return the text of a manifest with these entries, plain values of JSON, and its own hash."""
    return json.dumps({**entries, OWN_HASH: _hash_of(entries)})


def read_manifest(path: Path) -> Manifest:
    """Return a checkpoint's manifest.

    Raises:
        UserError: missing, cut short, of another format, altered, or an entry is wrong; the line does not name `path`.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        entries = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{MANIFEST} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{MANIFEST} cannot be read ({error})") from None
    if not isinstance(entries, dict):
        raise UserError(f"{MANIFEST} is no mapping of entries")
    if entries.get("format") not in (FORMAT_VERSION, FORMAT_WITHOUT_HASH):
        raise UserError(f"its format is {entries.get('format')}, this version reads {FORMAT_VERSION}")
    own = entries.pop(OWN_HASH, None)
    if own != _hash_of(entries) and not (own is None and entries["format"] == FORMAT_WITHOUT_HASH):
        raise UserError(f"{MANIFEST} is not as it was written (its own SHA-256 differs)")
    try:
        manifest = Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{MANIFEST}: {refusal_line(Manifest, error, entries)}") from None
    reason = _contradiction(manifest, path)
    if reason is not None:
        raise UserError(f"{MANIFEST}: {reason}")
    return manifest


def _hash_of(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _contradiction(manifest: Manifest, path: Path) -> str | None:
    """Return what no manifest of a run would say; None when all entries fit each other and the folder."""
    progress, named = manifest.progress, STEP_NAME.fullmatch(path.name)
    if min(progress.step, progress.num_updates, progress.num_skipped, progress.num_skipped_in_a_row) < 0:
        return f"progress counts {progress.step} steps and {progress.num_updates} updates"
    if named and int(named[1]) != progress.step:
        return f"progress.step is {progress.step} in {path.name}"
    if len(manifest.random) != manifest.world_size:
        return f"random has {len(manifest.random)} entries for {manifest.world_size} processes"
    if any(len(state.torch) != 2 * torch.get_rng_state().numel() for state in manifest.random):
        return "random holds no state of torch's generator"
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or "\\" in name or name.startswith("/") or ".." in parts or name == MANIFEST:
            return f"files names {name!r}, which is no file of a checkpoint"
    return _wrong_piece(manifest)


def _wrong_piece(manifest: Manifest) -> str | None:
    """Return why the pieces are not all of all parameters, each in a file that is listed."""
    held: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for piece in manifest.pieces:
        entry = manifest.parameters.get(piece.name)
        size = -1 if entry is None else math.prod(entry.shape)
        if piece.file not in manifest.files or not 0 <= piece.start <= piece.stop <= size:
            return f"pieces has elements {piece.start} to {piece.stop} of {piece.name} in {piece.file!r}"
        if WEIGHT in piece.kinds:
            held[piece.name].append((piece.start, piece.stop))
    for name, entry in manifest.parameters.items():
        end = 0
        for start, stop in sorted(held[name]):
            end = max(end, stop) if start <= end else end
        if end != math.prod(entry.shape):
            return f"pieces holds {name} up to element {end} of {math.prod(entry.shape)}"
    return None
