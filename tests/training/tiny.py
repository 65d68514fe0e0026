"""A tiny training run, alone or on ranks, and what can be read from its folder. Shared by tests and rank worker."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.config import validate_mapping
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.engine import materialize
from scal3r_train.parallel.process import joined_processes
from scal3r_train.train import build_model, stored_weights
from scal3r_train.training import trainer
from scal3r_train.training.checkpointing.checkpoint_files import StateReader
from scal3r_train.training.checkpointing.saver import THREAD_NAME, CheckpointSaver
from scal3r_train.training.recipe import TrainedModelSettings, TrainingRecipe

NETWORK = {
    "image_size": 28,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "layer_scale_init": 0.3,
    "patch_encoder": "conv",
    "tap_layers": [0, 0, 1, 1],
    "memory_layers": [0, 1],
    "memory_expansion": 2,
    "camera_heads": 2,
    "camera_layers": 1,
    "camera_iterations": 2,
    "dpt_features": 8,
    "dpt_channels": [8, 8, 8, 8],
    "dpt_refine_channels": 8,
    "point_head": False,
}
RESOLUTION = [{"height": 28, "width": 42}]
NUM_STEPS = 5
MEASURED = ("seconds", "time/", "throughput/", "memory/")  # keys of metrics that differ from run to run


class Killed(BaseException):
    """The run was ended from outside."""


def recipe(index: Path, output_dir: Path, changes: dict[str, Any] | None = None) -> TrainingRecipe:
    """Return a recipe of a few steps; `changes` replaces values by dotted path."""
    mapping: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "output_dir": str(output_dir),
        "model": {"network": NETWORK},
        "data": {"sources": [{"index": str(index)}]},
        "curriculum": {
            "chunks_per_rank": {"4": 1.0},
            "chunk_size": {"4": 1.0},
            "overlap": {"1": 1.0},
            "resolution": RESOLUTION,
        },
        "losses": {"points": {"weight": 0.0}},
        "optim": {"num_steps": NUM_STEPS, "memory_lr": 1e-3, "backbone_lr": 1e-3, "warmup_steps": 2},
        "validation": {
            "every": 3,
            "num_windows": 1,
            "sources": [{"index": str(index)}],
            "curriculum": {"chunk_size": {"4": 1.0}, "overlap": {"1": 1.0}, "resolution": RESOLUTION},
        },
        "checkpoint": {"every": 2},
        "telemetry": {"log_every": 1, "pictures": 0},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        node = mapping
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return validate_mapping(TrainingRecipe, mapping, "test")


def train(recipe: TrainingRecipe) -> str:
    """Train as `scal3r_train.train` does; a caller that has joined its peers stays with them for another run."""
    with joined_processes() as process:
        engine = build_engine(recipe.parallel, process, recipe.optim.accumulation_steps)
        set_seed(recipe.seed)
        try:
            weights = stored_weights(recipe.model)
            return trainer.Trainer(recipe, engine, build_model(recipe.model, weights), weights).fit()
        finally:
            engine.close()


def loaded(settings: TrainedModelSettings) -> Scal3RModel:
    """Return the model of a checkpoint as a single process gets it."""
    weights = stored_weights(settings)
    model = build_model(settings, weights)
    assert weights is not None
    materialize(model, torch.device("cpu"), weights)
    return model


@contextmanager
def replaced(name: str, value: Any, module: ModuleType = trainer) -> Iterator[None]:
    """Put another function in a place that a module, by default the trainer, looks at."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def killed_after(num_steps: int, *, while_saving: bool = False) -> Iterator[None]:
    """Let the process die when it begins one more step, and survive that.

    The save that is under way then is on disk before, or given up `while_saving`: its files are there, its manifest
    is not. On several ranks all die at the same step.
    """
    count, original = 0, trainer.train_step
    savers: list[CheckpointSaver] = []

    def noted_saver(*arguments: Any) -> CheckpointSaver:
        savers.append(CheckpointSaver(*arguments))
        return savers[-1]

    def step(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > num_steps:
            if not while_saving:
                savers[-1].finish()
            for thread in threading.enumerate():  # a kill would have ended them
                if thread.name == THREAD_NAME:
                    thread.join()
            raise Killed
        return original(*arguments)

    with replaced("train_step", step), replaced("CheckpointSaver", noted_saver):
        try:
            yield
        except Killed:
            return
    raise AssertionError("the run ended before it was killed")


def cut(record: SequenceRecord, num_frames: int) -> SequenceRecord:
    """Return the first frames of a sequence."""
    names = ("image", "image_size", "timestamp", "depth", "intrinsics", "distortion", "cam_from_world")
    values = {name: getattr(record, name) for name in names}
    return replace(record, **{name: None if v is None else v[:num_frames] for name, v in values.items()})


def write_uneven_towns(towns: Path, path: Path) -> Path:
    """Write an index of the same towns cut to unequal lengths, so that windows of 4 chunks hold 1 to 3."""
    index = load_index(towns)
    lengths = (4, 7, 10, 8)
    write_index(path, [cut(index[row], length) for row, length in enumerate(lengths)])
    return path


def write_broken_town(towns: Path, folder: Path) -> Path:
    """Write an index of one town of 7 frames whose last image is cut short: only the last rank reads it."""
    record = cut(load_index(towns)[0], 7)
    broken = folder / "broken.png"
    whole = (record.root / record.image[-1]).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    images = (*record.image[:-1], str(broken))
    write_index(folder / "index.parquet", [replace(record, image=images)])
    return folder / "index.parquet"


def write_partly_broken_towns(towns: Path, folder: Path) -> Path:
    """Write an index of the towns, one of which has no images from its frame 10 on."""
    index = load_index(towns)
    records = [index[row] for row in range(len(index))]
    images = tuple(
        name if place < 10 else str(folder / f"gone_{place}.png")
        for place, name in enumerate(records[1].image)
    )
    records[1] = replace(records[1], image=images)
    write_index(folder / "partly.parquet", records)
    return folder / "partly.parquet"


def faults(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of data_faults.jsonl."""
    path = folder / "data_faults.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(folder: Path, prefix: str = "") -> list[dict[str, Any]]:
    """Return the repeatable values of metrics.jsonl; only keys with `prefix` beside the step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if not key.startswith(MEASURED) and key.startswith((prefix, "step"))
        }
        for line in lines
    ]


def steps(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of training steps."""
    return [line for line in metrics(folder) if "loss" in line]


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the final weights of a run."""
    return load_file(folder / "model" / "model.safetensors")


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """Return everything that a checkpoint holds of the run, wherever it is cut: tensors whole, counts, random state."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    reader = StateReader(checkpoint, manifest["pieces"])
    state: dict[str, Any] = {"progress": manifest["progress"], "random": manifest["random"]}
    for name, entry in manifest["parameters"].items():
        for kind in ("weight", "exp_avg", "exp_avg_sq", "ema"):
            if reader.has(kind, name):
                state[f"{kind}/{name}"] = reader.read(kind, name, 0, math.prod(entry["shape"]))
    return state
