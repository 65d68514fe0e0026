"""From a checkpoint's pieces into the pieces that this process holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.checkpoint_files import EMA, WEIGHT, StateReader
from scal3r_train.training.ema import MovingAverage

Say = Callable[[str], None]


def refuse_other_network(engine: Engine, manifest: dict[str, Any], path: Path) -> None:
    """Raise UserError unless the checkpoint has every parameter of the engine's model in its shape."""
    saved = {name: tuple(entry["shape"]) for name, entry in manifest["parameters"].items()}
    for shard in engine.shards():
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
