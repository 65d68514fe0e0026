"""Checkpoints of a run: written beside their place and renamed, found again, pruned.

A checkpoint folder holds the engine's state (weights, optimizer, schedule, random state of every rank), a
`save_pretrained` folder `model/`, and `manifest.json`, written last, that says it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from scal3r_train.config import StrictModel, UserError, write_text_atomically
from scal3r_train.parallel.collectives import wait_for_everyone
from scal3r_train.parallel.engine import Engine

FORMAT_VERSION = 1
MAX_REASON = 200  # characters of torch's message about weights that do not fit


class CheckpointSettings(StrictModel):
    """The `checkpoint` section of a training recipe."""

    every: int = Field(
        default=500, ge=1, description="steps between checkpoints; the last step is always saved"
    )
    keep_last: int = Field(default=2, ge=1, description="how many to keep")
    max_shard_size: str = Field(
        default="5GB", pattern="^[1-9][0-9]*(KB|MB|GB)$", description="largest file of exported weights"
    )
    licence: str = Field(
        default="other",
        min_length=1,
        description="of exported weights, for their model card, as Hugging Face writes it; mind the data's licences",
    )


Describe = Callable[[Path, int], None]  # writes the model card into a folder of weights after so many steps


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints below one folder."""

    folder: Path
    settings: CheckpointSettings
    describe: Describe

    def is_due(self, step: int, num_steps: int) -> bool:
        """Return whether to save after `step` completed steps."""
        return step == num_steps or step % self.settings.every == 0

    def save(self, engine: Engine, step: int, recipe_yaml: str, guard: Mapping[str, float | None]) -> None:
        """Write the checkpoint after `step` completed steps, with the regression guard's state; all ranks call this."""
        final = self.folder / f"step_{step:08d}"
        partial = final.with_suffix(".partial")
        if engine.process.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait_for_everyone()
        engine.save_state(partial / "state")
        self.export(engine, partial / "model", step)
        if engine.process.is_main:
            write_text_atomically(partial / "recipe.yaml", recipe_yaml)
            manifest = {
                "format": FORMAT_VERSION,
                "step": step,
                "world_size": engine.process.world_size,
                "guard": dict(guard),
            }
            write_text_atomically(partial / "manifest.json", json.dumps(manifest))
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            self._prune()
        wait_for_everyone()

    def export(self, engine: Engine, folder: Path, step: int) -> None:
        """Write the weights after `step` steps as a `save_pretrained` folder with a card; all ranks call this."""
        engine.save_pretrained(folder, self.settings.max_shard_size)
        if engine.process.is_main:
            self.describe(folder, step)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, None when there is none."""
        complete = [
            path for path in sorted(self.folder.glob("step_????????")) if (path / "manifest.json").is_file()
        ]
        return complete[-1] if complete else None

    def guard_state(self, path: Path) -> dict[str, float | None]:
        """Return the regression guard's state in a checkpoint; empty when it was written without."""
        return json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("guard", {})

    def restore(self, engine: Engine, path: Path) -> int:
        """Load a checkpoint into the engine and return its step; all ranks call this.

        Raises:
            UserError: written by another number of processes, in another format or for another network.
        """
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT_VERSION:
            raise UserError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT_VERSION}"
            )
        if manifest["world_size"] != engine.process.world_size:
            raise UserError(
                f"checkpoint {path} was written by {manifest['world_size']} processes, this run has "
                f"{engine.process.world_size}; start as many, or begin a new run with model.checkpoint={path}/model"
            )
        try:
            engine.load_state(path / "state")
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise UserError(
                f"checkpoint {path} is damaged or of another recipe; remove it or name another output_dir ({reason})"
            ) from error
        return int(manifest["step"])

    def _prune(self) -> None:
        for path in sorted(self.folder.glob("step_????????"))[: -self.settings.keep_last]:
            shutil.rmtree(path)
