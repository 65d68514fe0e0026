"""A checkpoint's tensors on disk: intervals of flattened parameters, written by the ranks that hold them.

Every rank writes `rank_{rank}_{part}.safetensors` (host_copy.py); `Piece` says which interval of which parameter a
file holds. Reading takes any interval out of however many files it is spread over, so the reader's cut need not be the
writer's.

From a checkpoint's pieces into the pieces that this process holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scal3r_train.config import UserError, files_sha256
from scal3r_train.model.lora import is_adapter
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.checkpointing.ema import MovingAverage

WEIGHT, EMA = "weight", "ema"
AVERAGE_ENDING = "_ema"  # of the names of folders with averaged weights


@dataclass(frozen=True)
class Piece:
    """Where an interval of a parameter is: elements [start, stop) of its `kinds` (weight, moments, ema) in a file."""

    name: str
    start: int
    stop: int
    kinds: tuple[str, ...]
    file: str


class StateReader:
    """Reads intervals of parameters and their state out of the files of a checkpoint."""

    def __init__(self, folder: Path, pieces: Iterable[Mapping[str, Any]]) -> None:
        """`pieces`: as the manifest lists them (`Piece` as mappings)."""
        self.folder = folder
        self._pieces: dict[str, list[Piece]] = {}
        for entry in pieces:
            piece = Piece(**{**entry, "kinds": tuple(entry["kinds"])})
            self._pieces.setdefault(piece.name, []).append(piece)
        self._files: dict[str, Any] = {}

    def has(self, kind: str, name: str) -> bool:
        """Return whether the checkpoint holds this kind of state of a parameter."""
        return any(kind in piece.kinds for piece in self._pieces.get(name, ()))

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Return elements [start, stop) of the flattened parameter's weight, moment or average, on the CPU.

        Raises:
            UserError: the checkpoint does not hold all of them.
        """
        parts, place = [], start
        for piece in sorted(self._pieces.get(name, ()), key=lambda piece: piece.start):
            if kind not in piece.kinds or piece.stop <= place or piece.start >= stop:
                continue
            if piece.start > place:
                break
            end = min(piece.stop, stop)
            values = self._open(piece.file).get_slice(f"{kind}/{name}")
            parts.append(values[place - piece.start : end - piece.start])
            place = end
        if place < stop:
            raise UserError(f"checkpoint {self.folder} holds no {kind} of {name} beyond element {place}")
        return torch.cat(parts) if parts else torch.empty(0)

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(self.folder / file, framework="pt")
        return self._files[file]


def piece_entries(pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    """Return pieces as the manifest lists them."""
    return [asdict(piece) for piece in pieces]


def describe_file(path: Path) -> dict[str, Any]:
    """Return what the manifest says of a file: its size in bytes and SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": files_sha256([path])}


def reason_against(
    folder: Path, name: str, entry: Mapping[str, Any], pieces: Iterable[Piece] = ()
) -> str | None:
    """Return why a file of a checkpoint is not what the manifest says, or lacks one of its pieces; None when it is."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} leads out of the checkpoint"
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name} has {size} bytes instead of {entry['bytes']}"
    if files_sha256([path]) != entry["sha256"]:
        return f"{path.name} has other content than was written (SHA-256 differs)"
    return _lacking(path, [piece for piece in pieces if piece.file == name])


def _lacking(path: Path, pieces: Sequence[Piece]) -> str | None:
    """Return which piece a file of tensors does not hold."""
    if not pieces:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for piece in pieces:
                for key in (f"{kind}/{piece.name}" for kind in piece.kinds):
                    if key not in names or file.get_slice(key).get_shape() != [piece.stop - piece.start]:
                        return f"{path.name} does not hold elements {piece.start} to {piece.stop} of {key}"
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be read ({error})"
    return None


def sync_to_disk(paths: Iterable[Path]) -> None:
    """Return when files or folders are on the disk itself, so that a rename after this cannot outrun them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


Say = Callable[[str], None]


def refuse_other_network(
    engine: Engine, saved: Mapping[str, tuple[int, ...]], path: Path, *, has_base: bool
) -> None:
    """Raise UserError unless the checkpoint has every parameter of the engine's model in its shape.

    One with a base has those that were trained, and these must be trained still: nothing else would keep them.
    """
    for shard in engine.shards():
        if has_base and not shard.moments:
            if shard.name in saved:
                raise UserError(
                    f"checkpoint {path}: {shard.name} was trained and is frozen now; leave model.train as it was, or "
                    "name another output_dir"
                )
            continue
        if has_base and shard.name not in saved and not is_adapter(shard.name):
            continue  # newly trained, from the base's value
        if shard.name not in saved:
            raise UserError(
                f"checkpoint {path} is of another network: it has no {shard.name}; name another output_dir"
            )
        if saved[shard.name] != shard.shape:
            raise UserError(
                f"checkpoint {path} is of another network: {shard.name} is {list(saved[shard.name])} there and "
                f"{list(shard.shape)} here; name another output_dir"
            )


def read_into(engine: Engine, reader: StateReader, average: MovingAverage | None, say: Say) -> None:
    """Write the saved values into the shards; whatever is newly trained keeps its fresh moments, said plainly."""
    fresh = []
    for shard in engine.shards():
        bounds = (shard.name, shard.start, shard.stop)
        if not reader.has(WEIGHT, shard.name):  # the base's
            fresh += [shard.name] if shard.moments else []
            continue
        shard.weight.copy_(reader.read(WEIGHT, *bounds))
        for kind, moment in shard.moments.items():
            if reader.has(kind, shard.name):
                moment.copy_(reader.read(kind, *bounds))
            else:
                fresh.append(shard.name)
        if average is not None and shard.name in average.values:
            kind = EMA if reader.has(EMA, shard.name) else WEIGHT
            average.values[shard.name].copy_(reader.read(kind, *bounds))
    if fresh:
        say(f"{len(set(fresh))} parameters were not trained before: their optimizer state starts at zero")
