"""Writing checkpoints while the run goes on, so that a kill or a full disk loses nothing.

A save holds the run up for a copy to host memory. A thread of each rank then writes its files, and one of the main
process adds the rest, renames the folder and removes older ones. The threads never communicate: what ranks have to
tell each other (what was written, what failed) they exchange on their main threads, between two steps, when the
exchange that every step ends with says that no rank is busy. So all ranks make the same collectives in the same order.

A checkpoint is written as `step_{step}.partial` and renamed when it is complete.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from scal3r_train import __version__
from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.model.lora import LoraSettings
from scal3r_train.parallel.collectives import gather_to_main, raise_on_all_ranks
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.checkpointing.adapter_base import Base, manifest_entry
from scal3r_train.training.checkpointing.adapters import export_adapters
from scal3r_train.training.checkpointing.checkpoint import (
    CheckpointSettings,
    random_state,
    step_folders,
)
from scal3r_train.training.checkpointing.checkpoint_files import (
    AVERAGE_ENDING,
    EMA,
    WEIGHT,
    StateReader,
    describe_file,
    piece_entries,
    sync_to_disk,
)
from scal3r_train.training.checkpointing.ema import MovingAverage
from scal3r_train.training.checkpointing.export import export_model
from scal3r_train.training.checkpointing.host_copy import HostCopy
from scal3r_train.training.checkpointing.manifest import FORMAT_VERSION, MANIFEST, sealed
from scal3r_train.training.progress import Progress

THREAD_NAME = "checkpoint"
ADAPTERS = "adapters"  # the folder of weights of a run that trains adapters
Value = TypeVar("Value")


class Stage(Enum):
    """How far a save is; the same on all ranks at any collective."""

    NONE = "no save is under way"
    PARTS = "every rank writes its part"
    WHOLE = "the main process completes the checkpoint"


class CheckpointSaver:
    """Saves the state of one run below one folder; at most one save is under way."""

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        engine: Engine,
        average: MovingAverage | None,
        recipe_yaml: str,
        describe: Callable[[Path, int], None],
        adapters: tuple[LoraSettings, Base] | None = None,
    ) -> None:
        """Note what is saved.

        Args:
            folder: of all checkpoints.
            settings: what to keep, and how to cut exported weights.
            engine: has prepared its model.
            average: also saved; may be None.
            recipe_yaml: written beside.
            describe: writes the card of a folder of weights after so many steps; called in the thread.
            adapters: where the run trains some; then nothing of their base is saved.
        """
        self._adapters = adapters
        self._folder, self._settings = folder, settings
        self._engine, self._average = engine, average
        self._recipe_yaml, self._describe = recipe_yaml, describe
        self._copy = HostCopy(engine.process.device, engine.optimizer)
        self._stage = Stage.NONE
        self._work: Future[Any] | None = None
        self._final = folder

    @property
    def is_busy(self) -> bool:
        """Whether this process's thread is still at work."""
        return self._work is not None and not self._work.done()

    def start(self, progress: Progress) -> None:
        """Copy the state as it is now and begin to write it; ends the save before. All ranks call this.

        Raises:
            UserError: the save before failed, or the folder cannot be made; the same line on every rank.
        """
        self.finish()
        engine, average = self._engine, self._average
        self._final = self._folder / f"step_{progress.step:08d}"
        partial_folder = self._partial
        with self._failing_together():
            if engine.process.is_main:
                shutil.rmtree(partial_folder, ignore_errors=True)
                partial_folder.mkdir(parents=True)
            shards = [shard for shard in engine.shards() if shard.moments or self._adapters is None]
            pieces = self._copy.take(engine.process.rank, shards, average.values if average else {})
        part = {
            "pieces": piece_entries(pieces),
            "parameters": {
                shard.name: {"shape": list(shard.shape), "is_trained": bool(shard.moments)}
                for shard in shards
            },
            "random": random_state(),
        }
        self._progress = asdict(progress)
        self._work = _in_background(partial(self._write_part, partial_folder, part))
        self._stage = Stage.PARTS

    def go_on(self) -> None:
        """Begin the next stage of a save; waits for this process's thread. All ranks call this together.

        Raises:
            UserError: some rank cannot write, the same line on every rank; nothing partial is left.
        """
        if self._stage is Stage.NONE:
            return
        with self._failing_together():
            outcome = None if self._work is None else self._work.result()
        is_whole = self._stage is Stage.WHOLE
        self._stage, self._work = Stage.NONE, None
        if not is_whole:
            parts = gather_to_main(outcome)
            self._stage = Stage.WHOLE
            if self._engine.process.is_main:
                self._work = _in_background(partial(self._complete, self._final, parts, self._progress))

    def finish(self) -> None:
        """Return when the save under way, if any, is on disk. All ranks call this together.

        Raises:
            UserError: as `go_on`.
        """
        while self._stage is not Stage.NONE:
            self.go_on()

    @contextmanager
    def finished_when_alone(self) -> Iterator[None]:
        """When an error ends the body in a run of one process, bring the save that is under way to the disk.

        With peers it is given up, as a kill would: they may be gone, and waiting would keep the cause from them.
        """
        try:
            yield
        except Exception:
            if self._engine.process.world_size == 1:
                with suppress(UserError):  # the first error counts
                    self.finish()
            raise

    @property
    def _partial(self) -> Path:
        return self._final.with_suffix(".partial")

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """Let an error in the body end the save on all ranks, an operating system's as a line for the user."""
        try:
            with raise_on_all_ranks():
                try:
                    yield
                except (OSError, SafetensorError) as error:  # which wraps what the operating system says
                    raise UserError(
                        f"checkpoint {self._final} cannot be written: {error}; earlier ones are intact: make room "
                        "and start the same command again"
                    ) from error
        except Exception:
            self._stage, self._work = Stage.NONE, None
            if self._engine.process.is_main:
                shutil.rmtree(self._partial, ignore_errors=True)
            raise

    def _write_part(self, folder: Path, part: dict[str, Any]) -> dict[str, Any]:
        """Write what this rank holds and return its part of the manifest."""
        self._copy.write(folder)
        names = sorted({piece["file"] for piece in part["pieces"]})
        return part | {"files": {name: describe_file(folder / name) for name in names}}

    def _complete(self, final: Path, parts: list[dict[str, Any]], progress: dict[str, Any]) -> None:
        """Write what the main process adds: recipe, model folders, manifest; then name the folder and prune."""
        folder, engine = final.with_suffix(".partial"), self._engine
        pieces = [piece for part in parts for piece in part["pieces"]]
        parameters = {name: entry for part in parts for name, entry in part["parameters"].items()}
        write_text_atomically(folder / "recipe.yaml", self._recipe_yaml)
        reader = StateReader(folder, pieces)
        config, size = engine.bare_model.config, self._settings.max_shard_size
        name = "model" if self._adapters is None else ADAPTERS
        targets = {WEIGHT: folder / name}
        if self._average is not None:
            targets[EMA] = folder / f"{name}{AVERAGE_ENDING}"
        for kind, target in targets.items():
            if self._adapters is None:
                export_model(config, reader, parameters, kind, target, size)
            else:
                export_adapters(*self._adapters, reader, parameters, kind, target)
            self._describe(target, progress["step"])
        files = {name: entry for part in parts for name, entry in part["files"].items()}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder))
            if name not in files:
                sync_to_disk([path])
                files[name] = describe_file(path)
        manifest = {
            "format": FORMAT_VERSION,
            "code_version": __version__,
            "engine": engine.name,
            "world_size": engine.process.world_size,
            "progress": progress,
            "base": manifest_entry(self._adapters and self._adapters[1]),
            "parameters": parameters,
            "random": [part["random"] for part in parts],
            "pieces": pieces,
            "files": files,
        }
        write_text_atomically(folder / MANIFEST, sealed(manifest))
        sync_to_disk([folder / MANIFEST, folder])
        _replace(final, folder)
        self._prune(final, progress["best"].get("step"))

    def _prune(self, newest: Path, best_step: int | None) -> None:
        """Remove what is older than it should be, and what a kill left half-way: a good checkpoint is there now.

        Later ones than that are damaged, or the run would have gone on from them: they do not count, and stay.
        """
        for leftover in (*self._folder.glob("step_*.partial"), *self._folder.glob("step_*.old")):
            shutil.rmtree(leftover)
        complete = sorted(path for path in step_folders(self._folder) if path.name <= newest.name)
        for path in complete[: -self._settings.keep_last]:
            every, step = self._settings.keep_every, int(path.name.removeprefix("step_"))
            is_best = self._settings.best is not None and step == best_step
            if not is_best and (every is None or step % every != 0):
                shutil.rmtree(path)


def _in_background(work: Callable[[], Value]) -> Future[Value]:
    """Run `work` in a thread that does not keep this process alive when it is told to end at once."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whoever asks for the result has to learn of it
            future.set_exception(error)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    return future


def _replace(final: Path, partial_folder: Path) -> None:
    """Give a complete folder its name; one that already has it (damaged, or of this very step) makes room first."""
    if final.exists():
        old = final.with_suffix(".old")  # goes with the next pruning
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    partial_folder.rename(final)
    sync_to_disk([final.parent])
