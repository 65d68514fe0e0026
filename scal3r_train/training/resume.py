"""Where a run begins: anew, from its own newest checkpoint, or from a checkpoint of another run.

What a run resumed elsewhere needs of the first one beside the checkpoint (its metrics, what it could not read, its
mixture of data) is copied, so that it is the run that never stopped. What was changed in the recipe is told.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError, atomic_output, load_mapping, validate_mapping
from scal3r_train.data.sampling.sources import MIXTURE_FILE
from scal3r_train.parallel.collectives import from_main, raise_on_all_ranks
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.checkpointing.checkpoint import Checkpoints, step_folders
from scal3r_train.training.checkpointing.checkpoint_files import Say
from scal3r_train.training.checkpointing.manifest import MANIFEST, read_manifest
from scal3r_train.training.data_faults import FILE_NAME as FAULTS_FILE
from scal3r_train.training.monitoring.sinks import METRICS_FILE
from scal3r_train.training.recipe import TrainingRecipe

AUTO, NONE = "auto", "none"
CHECKPOINTS = "checkpoints"
RECORDS = (METRICS_FILE, FAULTS_FILE, MIXTURE_FILE)
NO_CHANGES = ("resume", "output_dir")  # how a run is started and where it lies make it no other one
MISSING = "missing"


def checkpoint_to_resume(
    resume: str, num_steps: int, own: Checkpoints, engine: Engine, say: Say
) -> Path | None:
    """Return the checkpoint that a run goes on from, None to begin anew; all ranks call this.

    Args:
        resume: `auto`, `none`, or the path of a checkpoint or run folder; once the run has a checkpoint of its own,
            that wins over the path, so that the same command goes on.
        num_steps: after which the run ends.
        own: checkpoints of the run.
        engine: of the run.
        say: gets a line for what a user should know.

    Raises:
        UserError: `none` and the folder holds a run; the path leads to no intact checkpoint, to one that leaves no step
            to do, or into the folder itself; the same line on every rank.
    """
    run = own.folder.parent
    if resume == NONE:
        with raise_on_all_ranks():
            if engine.process.is_main and holds_run(run):
                raise UserError(
                    f"resume=none: output_dir {run} holds a run already, which would be overwritten; name another "
                    "output_dir, or go on with resume=auto"
                )
        return None
    if resume != AUTO and Path(resume).resolve().parent == own.folder.resolve():
        raise UserError(
            f"resume={resume} lies in output_dir itself, whose later checkpoints are of what came after; name another "
            "output_dir to go on from there"
        )
    newest = own.newest(engine, say)
    if resume == AUTO:
        return newest
    if newest is not None:
        say(f"{run} has checkpoints of its own: it goes on from them, not from resume={resume}")
        return newest
    found, is_checkpoint = from_main(lambda: _meant(Path(resume)))
    other: Path | None = found
    if is_checkpoint:
        own.require_intact(found, engine)
    else:
        other = Checkpoints(found, own.settings).newest(engine, say)
    if other is None:
        raise UserError(
            f"resume={resume}: it holds no checkpoint; name a run's folder or one of its checkpoints"
        )
    _refuse_finished(other, num_steps)
    return other


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds checkpoints or metrics of a run."""
    metrics = folder / METRICS_FILE
    return bool(step_folders(folder / CHECKPOINTS)) or (metrics.is_file() and metrics.stat().st_size > 0)


def adopt_records(checkpoint: Path, folder: Path) -> None:
    """Copy into `folder` what the run of a checkpoint of another folder has written beside it; on the main process.

    Raises:
        UserError: a file cannot be copied.
    """
    origin = checkpoint.parent.parent
    if origin.resolve() == folder.resolve():
        return
    try:
        for name in RECORDS:
            (folder / name).unlink(missing_ok=True)
            if checkpoint.parent.name == CHECKPOINTS and (origin / name).is_file():
                with atomic_output(folder / name) as partial:
                    shutil.copyfile(origin / name, partial)
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None


def recipe_changes(checkpoint: Path, recipe: TrainingRecipe, step: int) -> list[dict[str, Any]]:
    """Return what differs from the recipe that a checkpoint of `step` was written with: `step`, `key`, `old`, `new`."""
    found = differences(_recipe_of(checkpoint), recipe.model_dump(mode="json"))
    return [
        {"step": step, "key": key, "old": old, "new": new} for key, old, new in found if key not in NO_CHANGES
    ]


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted key, old and new value of what differs between two trees of plain data, as deep as both go."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key, MISSING), new.get(key, MISSING)) for key in dict.fromkeys((*new, *old))]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(place), *pair) for place, pair in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield path, old, new
        return
    for key, first, second in pairs:
        yield from differences(first, second, f"{path}.{key}" if path else key)


def say_changes(changes: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    """Give `say` a line for each change."""
    for change in changes:
        say(f"changed in the recipe: {change['key']}: {_shown(change['old'])} -> {_shown(change['new'])}")


def _refuse_finished(checkpoint: Path, num_steps: int) -> None:
    """Raise UserError on every rank for another run's checkpoint that leaves no step to do, and so nothing to write."""
    step = from_main(lambda: read_manifest(checkpoint).progress.step)
    if step >= num_steps:
        raise UserError(
            f"resume: {checkpoint} is of step {step} and optim.num_steps is {num_steps}: nothing is left to train; "
            "raise it, or use that run's weights"
        )


def _meant(path: Path) -> tuple[Path, bool]:
    """Return the folder that a path means, and whether it is one checkpoint rather than a folder of them."""
    is_checkpoint = (path / MANIFEST).is_file()
    folder = path if is_checkpoint or path.name == CHECKPOINTS else path / CHECKPOINTS
    if not folder.is_dir():
        raise UserError(
            f"resume={path}: there is no checkpoint; give auto, none, the folder of a run or one of its checkpoints"
        )
    return folder, is_checkpoint


def _recipe_of(checkpoint: Path) -> dict[str, Any]:
    """Return the recipe of a checkpoint with today's defaults for keys that it lacks; raw where it is none today."""
    path = checkpoint / "recipe.yaml"
    try:
        mapping = load_mapping(path)
    except UserError:
        return {}
    try:
        return validate_mapping(TrainingRecipe, mapping, str(path)).model_dump(mode="json")
    except UserError:
        return mapping


def _shown(value: Any) -> str:
    return value if value == MISSING else json.dumps(value)
