"""Checkpoints of a run: when to write them, what to keep, how to go on from one. saver.py writes them.

A checkpoint folder `step_{step}` holds the state's tensors (checkpoint_files.py), `recipe.yaml`, the weights as a
`save_pretrained` folder `model/` (`model_ema/` with a moving average) and `manifest.json`: counts, random state of
every rank, size and hash of every file, and a hash of its own (manifest.py).

The random state of one process as plain JSON: Python's, NumPy's, torch's on the CPU and on its CUDA device.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from scal3r_train.config import StrictModel, UserError
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.best_so_far import ValidationMetric
from scal3r_train.training.checkpointing.adapter_base import Base, refuse_other_base
from scal3r_train.training.checkpointing.checkpoint_files import (
    Say,
    StateReader,
    piece_entries,
    read_into,
    reason_against,
    refuse_other_network,
)
from scal3r_train.training.checkpointing.ema import MovingAverage
from scal3r_train.training.checkpointing.manifest import MANIFEST, STEP_NAME, read_manifest
from scal3r_train.training.progress import Progress


def random_state() -> dict[str, Any]:
    """Return the state of every generator that a training run may draw from."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002  the global one
    _, keys, position, has_gauss, cached = numpy_state
    state = {
        "python": [version, list(words), gauss],
        "numpy": [keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Take over what `random_state` returned; a CUDA state is used where there is a CUDA device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    words_of_numpy = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words_of_numpy, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


class CheckpointSettings(StrictModel):
    """The `checkpoint` section of a training recipe."""

    max_shard_size: str = Field(
        default="5GB", pattern="^[1-9][0-9]*(KB|MB|GB)$", description="largest file of exported weights"
    )
    licence: str = Field(
        default="other",
        min_length=1,
        description="licence of exported weights, for their model card, as Hugging Face writes it; mind the "
        "data's licences",
    )
    base_model: str | None = Field(
        default=None,
        pattern="^[^/]+/[^/]+$",
        description="for the model card: OWNER/NAME on the Hugging Face hub of the weights that the run goes on from",
    )
    every: int = Field(
        default=500, ge=1, description="steps between checkpoints; the last step is always saved [steps]"
    )
    keep_last: int = Field(
        default=2, ge=1, description="how many of the newest checkpoints to keep [checkpoints]"
    )
    keep_every: int | None = Field(
        default=None, ge=1, description="also keep every checkpoint whose step is a multiple of this [steps]"
    )
    best: ValidationMetric | None = Field(
        default=None,
        description="also save after every validation in which this number is better than ever, keep that checkpoint "
        "whatever its age, and leave its weights as model_best/; null: none",
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="save and stop after this long; exit code 85 (docs/training.md) [h]"
    )


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints below one folder; with `base` they hold what is trained beside it and nothing of it."""

    folder: Path
    settings: CheckpointSettings
    base: Base | None = None

    def is_due(self, step: int, num_steps: int) -> bool:
        """Return whether to save after `step` completed steps."""
        return step == num_steps or step % self.settings.every == 0

    def of_step(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self.folder / f"step_{step:08d}"

    def newest(self, engine: Engine, say: Say) -> Path | None:
        """Return the newest checkpoint that is complete and undamaged; None when the run has none yet.

        All ranks call this; each reads its share of the files. `say` gets a line for every one that is skipped.

        Raises:
            UserError: there are checkpoints and every one is damaged.
        """
        with raise_on_all_ranks():
            names = sorted(path.name for path in step_folders(self.folder))
        names = gather_to_all(names)[0]
        for name in reversed(names):
            reason = self._damage(self.folder / name, engine)
            if reason is None:
                return self.folder / name
            say(f"checkpoint {self.folder / name} skipped: {reason}")
        if names:
            raise UserError(
                f"none of the {len(names)} checkpoints in {self.folder} is intact; remove them to begin anew"
            )
        return None

    def require_intact(self, path: Path, engine: Engine) -> None:
        """Return if a checkpoint is complete and undamaged; all ranks call this.

        Raises:
            UserError: why it is not; the same line on every rank.
        """
        reason = self._damage(path, engine)
        if reason is not None:
            raise UserError(f"checkpoint {path} cannot be used: {reason}")

    def restore(self, engine: Engine, path: Path, average: MovingAverage | None, say: Say) -> Progress:
        """Load a checkpoint into the engine, and into `average` if it is given; all ranks call this.

        Another engine or number of processes than the writer's is fine; `say` gets a line for what changes by that.

        Raises:
            UserError: of another network, base or format; the same line on every rank.
        """
        with raise_on_all_ranks():
            manifest = read_manifest(path)
            reader = StateReader(path, piece_entries(manifest.pieces))
            refuse_other_base(self.base, manifest.base, path)
            shapes = {name: entry.shape for name, entry in manifest.parameters.items()}
            refuse_other_network(engine, shapes, path, has_base=manifest.base is not None)
            read_into(engine, reader, average, say)
        progress = manifest.progress
        engine.restored(progress.step, progress.num_updates)
        written = manifest.world_size
        if written == engine.process.world_size:
            restore_random_state(manifest.random[engine.process.rank].model_dump(exclude_none=True))
        else:
            say(
                f"resumed on {engine.process.world_size} processes a run of {written}: weights, optimizer and "
                "schedule are exact; context groups, data order and random state are those of the new world size"
            )
        if manifest.engine != engine.name:
            say(
                f"resumed under {engine.name} a run of {manifest.engine}: weights, optimizer and schedule are exact"
            )
        if manifest.sha256 is None:
            say(f"{path} is of an earlier version: its manifest has no hash that would show a change of it")
        return progress

    def _damage(self, path: Path, engine: Engine) -> str | None:
        """Return the first reason against a checkpoint that any rank found, the same on every rank."""
        try:
            manifest = read_manifest(path)
        except UserError as error:
            found: tuple[str | None, str] = str(error), ""
        else:
            own = sorted(manifest.files)[engine.process.rank :: engine.process.world_size]
            entries = {name: manifest.files[name].model_dump() for name in own}
            reasons = (reason_against(path, name, entries[name], manifest.pieces) for name in own)
            found = next((reason for reason in reasons if reason is not None), None), repr(manifest)
        reasons_found, manifests = zip(*gather_to_all((found[0], _digest(found[1]))), strict=True)
        if len(set(manifests)) > 1 and not any(reasons_found):
            return f"processes read different {MANIFEST} files"
        return next((reason for reason in reasons_found if reason is not None), None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def step_folders(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder by their names, in no order; what is called otherwise is none of ours."""
    return [path for path in folder.glob("step_*") if STEP_NAME.fullmatch(path.name)]
