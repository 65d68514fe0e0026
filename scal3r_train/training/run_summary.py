"""What a run says of itself when it starts and when it ends, as plain text; pure functions of what it knows anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scal3r_train.data.dataset import PlannedData, short_names
from scal3r_train.model.hub_card import reconstruct_command
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.engine import Engine
from scal3r_train.shown_progress import spoken
from scal3r_train.training.best_so_far import BestSoFar
from scal3r_train.training.monitoring.flop_count import step_work
from scal3r_train.training.monitoring.sinks import METRICS_FILE, PICTURES_FOLDER
from scal3r_train.training.monitoring.step_trace import FOLDER as TRACE_FOLDER
from scal3r_train.training.recipe import TrainingRecipe

MOST_PLANS = 64  # optimizer steps that are looked at for the size of a step
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model: all, and those that are trained."""

    total: int
    trained: int

    @classmethod
    def of(cls, model: Scal3RModel) -> ModelSize:
        """Count those of a model that no engine has cut yet."""
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        return cls(
            sum(count for count, _ in counts), sum(count for count, is_trained in counts if is_trained)
        )


def start_rows(recipe: TrainingRecipe, engine: Engine, size: ModelSize, data: PlannedData) -> Rows:
    """Return the rows of the table with which a run begins."""
    process, config = engine.process, engine.bare_model.config
    origin = f"from {recipe.model.checkpoint or 'random weights'}"
    if recipe.model.encoder is not None:
        origin += f", encoder of {recipe.model.encoder}"
    network = f"{config.num_layers} layers of {config.hidden_size}, {len(config.memory_layers)} memories"
    device = f"{process.device.type}, {recipe.parallel.precision}"
    ranks = f"{process.world_size} rank{'s' if process.world_size > 1 else ''}"
    return [
        ("run", recipe.run_name),
        ("model", f"{network}, {_millions(size.total)} parameters, {origin}"),
        (
            "trained",
            f"{_millions(size.trained)} ({recipe.model.train}), frozen {_millions(size.total - size.trained)}",
        ),
        ("engine", f"{engine.name} on {ranks}, {device}"),
        *_data_rows(data),
        ("steps", _steps_in_words(recipe)),
        ("step", _step_in_words(recipe, engine, data)),
        ("output", recipe.output_dir),
    ]


def as_table(rows: Rows) -> str:
    """Return rows as aligned lines; those with the name of the row above leave it out."""
    width = max(len(name) for name, _ in rows)
    before = [""] + [name for name, _ in rows]
    return "".join(
        f"{'' if name == above else name:{width}}  {text}\n"
        for (name, text), above in zip(rows, before, strict=False)
    )


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        step: completed steps of the run.
        num_steps_now: of them since this start.
        seconds: since this start, validations and saves included.
        num_skipped: steps without update.
        best: the best validation.
        reason: why it ended before its last step; empty when it did not.
    """

    step: int
    num_steps_now: int
    seconds: float
    num_skipped: int
    best: BestSoFar
    reason: str = ""


def end_rows(recipe: TrainingRecipe, checkpoint: Path, end: RunEnd, *, has_motion: bool = False) -> Rows:
    """Return the rows of the table with which a run that is complete ends.

    Args:
        recipe: of the run.
        checkpoint: its last one.
        end: how it ended.
        has_motion: whether its model measures motion.
    """
    folder = Path(recipe.output_dir)
    now = "" if end.num_steps_now == end.step else f", {end.num_steps_now:,} of them since this start"
    pace = f" ({end.seconds / end.num_steps_now:.3g} s a step)" if end.num_steps_now else ""
    skipped = f", {end.num_skipped} skipped" if end.num_skipped else ""
    rows = [("done", f"{end.step:,} steps{now}{skipped}, in {spoken(end.seconds)}{pace}")]
    if end.reason:
        rows.append(("early", end.reason))
    if recipe.validation.every > 0:
        rows.append(("best", _best_in_words(recipe, checkpoint.parent, end.best)))
    models = sorted(path.name for path in folder.glob("model*") if (path / "config.json").is_file())
    rows += [("checkpoint", str(checkpoint)), *(("model", str(folder / name)) for name in models)]
    rows.append(("metrics", str(folder / METRICS_FILE)))
    for name, text in ((PICTURES_FOLDER, "pictures"), (TRACE_FOLDER, "profile"), ("tensorboard", "events")):
        if (folder / name).is_dir():
            rows.append((text, str(folder / name)))
    shown = folder / ("model_best" if "model_best" in models else "model")
    command = reconstruct_command(str(shown), recipe.final_image_hw if has_motion else None)
    rows.append(("next", command))
    rows.append(("next", f"scal3r eval eval/{'circuits' if has_motion else 'synthetic'} checkpoint={shown}"))
    return rows


def _best_in_words(recipe: TrainingRecipe, checkpoints: Path, best: BestSoFar) -> str:
    if best.value is None:
        return f"no validation after a step gave a finite {best.metric}"
    found = f"{best.metric} {best.value:.5g} after step {best.step}"
    kept = checkpoints / f"step_{best.step:08d}"
    if kept.is_dir():
        return f"{found}, {kept}"
    return (
        f"{found}, not kept (checkpoint.best={best.metric} keeps it)"
        if recipe.checkpoint.best is None
        else found
    )


def _data_rows(data: PlannedData) -> Rows:
    total = sum(source.weight for source in data.sources)
    rows = []
    names = short_names([source.name for source in data.sources])
    for name, source in zip(names, data.sources, strict=True):
        lengths = source.num_frames
        assert lengths is not None, "an index that does not exist is refused"
        rows.append(
            (
                "data",
                f"{name}: {int((lengths > 0).sum()):,} sequences, {int(lengths.sum()):,} frames, "
                f"{100 * source.weight / total:.3g} % of the windows",
            )
        )
    return rows


def _steps_in_words(recipe: TrainingRecipe) -> str:
    validation, checkpoint = recipe.validation, recipe.checkpoint
    validated = f"validation every {validation.every:,}" if validation.every else "no validation"
    return f"{recipe.optim.num_steps:,}, {validated}, checkpoint every {checkpoint.every:,}"


def _step_in_words(recipe: TrainingRecipe, engine: Engine, data: PlannedData) -> str:
    """Return how much a step sees, over all ranks, judged by some steps of the whole run."""
    count, num_steps = recipe.optim.accumulation_steps, recipe.optim.num_steps
    steps = {place * num_steps // MOST_PLANS for place in range(MOST_PLANS)}
    works = [
        step_work([data.plan(count * step + part) for part in range(count)], engine.bare_model.config)
        for step in sorted(steps)
    ]
    chunks, frames = [work.num_chunks for work in works], [work.num_frames for work in works]
    accumulated = f", {count} micro-steps" if count > 1 else ""
    return f"{_range(chunks)} chunks, {_range(frames)} frames on all ranks together{accumulated}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}-{high:,} (mean {sum(numbers) / len(numbers):,.1f})"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
