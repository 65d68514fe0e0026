"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from scal3r_train.config import UserError, dump_yaml, write_text_atomically, writing
from scal3r_train.data.dataset import PlannedData, plan_data, step_loader
from scal3r_train.data.io.reading_process import deaths_named
from scal3r_train.data.sampling.sources import DataSettings, available_data, check_mixture, skipped_message
from scal3r_train.model.merge_adapters import merge_adapters
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.notes import tell
from scal3r_train.parallel.claimed_output import remove_leftovers_within
from scal3r_train.parallel.collectives import from_main, raise_on_all_ranks
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.engine import Engine
from scal3r_train.parallel.weights import Weights
from scal3r_train.training.best_so_far import BestSoFar, EarlyStopping
from scal3r_train.training.checkpointing.adapters import find_base
from scal3r_train.training.checkpointing.checkpoint import Checkpoints
from scal3r_train.training.checkpointing.ema import MovingAverage
from scal3r_train.training.checkpointing.export import make_folder, replace_folder
from scal3r_train.training.checkpointing.run_card import CardWriter
from scal3r_train.training.checkpointing.saver import ADAPTERS, CheckpointSaver
from scal3r_train.training.data_faults import DataFaults
from scal3r_train.training.freezing import freeze_untrained_heads
from scal3r_train.training.monitoring.pictures import WindowPictures
from scal3r_train.training.monitoring.step_line import validation_line
from scal3r_train.training.monitoring.step_profiler import StepProfiler
from scal3r_train.training.monitoring.step_trace import StepTrace
from scal3r_train.training.monitoring.telemetry import Telemetry
from scal3r_train.training.optim import build_optimizer
from scal3r_train.training.progress import Progress
from scal3r_train.training.recipe import TrainingRecipe
from scal3r_train.training.resume import (
    CHECKPOINTS,
    adopt_records,
    checkpoint_to_resume,
    recipe_changes,
    say_changes,
)
from scal3r_train.training.run_summary import ModelSize, Rows, RunEnd, as_table, end_rows, start_rows
from scal3r_train.training.step import MicroStep, train_step
from scal3r_train.training.stop import StopRequest, listening_for_signals
from scal3r_train.training.validation import RegressionGuard, validate

VALIDATION_SEED_OFFSET = 1_000_003


class Trainer:
    """Trains a model as a recipe says; the same on one process and on many."""

    def __init__(
        self, recipe: TrainingRecipe, engine: Engine, model: Scal3RModel, weights: Weights | None = None
    ) -> None:
        """Open the data, build the optimizer, wrap the model, whose values are in `weights` if it has no storage."""
        self.recipe = recipe
        self.folder = Path(recipe.output_dir)
        self.engine = engine
        self._place = engine.process.rank, engine.process.world_size
        self.groups = ContextGroups(engine.timeout)
        needed = recipe.validation.sources if recipe.validation.every > 0 else ()
        self.available_data = available_data(recipe.data, needed)
        curriculum = recipe.curriculum.in_plans(recipe.optim.accumulation_steps)
        self.data = plan_data(self.available_data, curriculum, recipe.seed, *self._place)
        self.faults = DataFaults(
            recipe.data,
            curriculum,
            self.data.sources,
            recipe.seed,
            self.data.dataset,
            engine.process,
            self.folder,
        )
        self.validation = self._plan_validation()
        self.guard = RegressionGuard(recipe.validation.guard)
        self.best = BestSoFar(recipe.checkpoint.best or "val/loss")
        self.early_stopping = EarlyStopping(recipe.validation.early_stopping)
        self.pictures = WindowPictures(recipe.telemetry.pictures if engine.process.is_main else 0)
        validated = () if self.validation is None else self.validation.dataset.indexes
        self.card = CardWriter(recipe, engine, model, self.data.dataset.indexes, validated)
        freeze_untrained_heads(model, recipe.losses)
        self.model_size = ModelSize.of(model)
        optim = recipe.optim
        engine.prepare(model, lambda placed: build_optimizer(placed, optim), optim.clip_norm, weights)
        decay = recipe.optim.ema_decay
        self.average = None if decay is None else MovingAverage(decay, engine.shards())
        self.profiler = StepProfiler(engine, recipe.losses.heads)
        self.trace = StepTrace(
            recipe.telemetry.profile, self.folder, engine.process.rank, engine.process.device
        )
        lora, started_from = recipe.model.lora, recipe.model.checkpoint
        base = None if lora is None or started_from is None else find_base(started_from)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, recipe.checkpoint, base)
        self.saver = CheckpointSaver(
            self.checkpoints.folder,
            recipe.checkpoint,
            engine,
            self.average,
            dump_yaml(recipe),
            self.card.describe,
            None if lora is None or base is None else (lora, base),
        )

    def start_rows(self) -> Rows:
        """Return what a user should know of the run before it begins."""
        return start_rows(self.recipe, self.engine, self.model_size, self.data)

    def fit(self) -> str:
        """Train to the last step, or until it gets no better, from where `resume` says.

        Returns:
            Empty when the run is complete, else why it was saved and stopped before.
        """
        recipe, start = self.recipe, time.perf_counter()
        stop = StopRequest(recipe.checkpoint.max_hours)
        with listening_for_signals(stop), deaths_named():
            progress = self._prepare_run()
            first_step = progress.step
            micro_steps = self._micro_steps(progress.step, recipe.optim.num_steps)
            with (
                self._open_telemetry(progress.step) as telemetry,
                closing(self.trace),
                self.saver.finished_when_alone(),
            ):
                if skipped := skipped_message(recipe.data, self.available_data):
                    telemetry.say(skipped)
                progress, reason = self._train(progress, micro_steps, telemetry, stop)
        if not reason:
            self._export_final(progress.step)
            seconds = time.perf_counter() - start
            ended = self.early_stopping.reason if progress.step < recipe.optim.num_steps else ""
            end = RunEnd(
                progress.step, progress.step - first_step, seconds, progress.num_skipped, self.best, ended
            )
            has_motion = self.engine.bare_model.config.has_motion
            rows = end_rows(recipe, self.checkpoints.of_step(progress.step), end, has_motion=has_motion)
            self._say(as_table(rows).rstrip("\n"))
        return reason

    def _train(
        self,
        progress: Progress,
        micro_steps: Iterator[list[MicroStep]],
        telemetry: Telemetry,
        stop: StopRequest,
    ) -> tuple[Progress, str]:
        """Make steps until the last one, until the run gets no better or a stop is asked for; return why it stopped."""
        engine, num_steps = self.engine, self.recipe.optim.num_steps
        if progress.step == 0:
            self._validate(telemetry, 0)
        elif self.early_stopping.reason and progress.step < num_steps:
            telemetry.say(
                f"this run is over since step {progress.step}: {self.early_stopping.reason}; "
                "validation.early_stopping=null goes on"
            )
        engine.bare_model.train()
        while progress.step < num_steps and not self.early_stopping.reason:
            progress = self._step(progress, micro_steps, telemetry)
            is_best = self._is_validation_due(progress.step) and self._validate(telemetry, progress.step)
            reason, is_saving = stop.agreed(engine.process.device, is_busy=self.saver.is_busy)
            if not is_saving:
                self.saver.go_on()
            is_over = progress.step == num_steps or bool(self.early_stopping.reason)
            is_stopped = bool(reason) and not is_over
            is_kept = is_best and self.recipe.checkpoint.best is not None
            if is_stopped or is_over or is_kept or self.checkpoints.is_due(progress.step, num_steps):
                progress = self._with_states(progress)
                self.saver.start(progress)
            if is_stopped:
                self.saver.finish()
                telemetry.say(f"stopped after step {progress.step} ({reason}); the same command goes on")
                return progress, reason
            if self.early_stopping.reason and progress.step < num_steps:
                telemetry.say(f"stopped early after step {progress.step}: {self.early_stopping.reason}")
        self.saver.finish()
        return progress, ""

    def _with_states(self, progress: Progress) -> Progress:
        """Return the counts with what else a checkpoint must keep."""
        return replace(
            progress,
            guard=self.guard.state(),
            best=self.best.state(),
            early_stopping=self.early_stopping.state(),
        )

    def _step(
        self, progress: Progress, micro_steps: Iterator[list[MicroStep]], telemetry: Telemetry
    ) -> Progress:
        """Make one optimizer step and report it."""
        step, profiler = progress.step + 1, self.profiler
        rates = {f"lr/{name}": rate for name, rate in self.engine.learning_rates.items()}
        is_logged = telemetry.is_due(step)
        self._seed_dropout(step)
        with self.trace.step(step), profiler.step(is_logged=is_logged):
            with profiler.phase("data"):
                readable = self.faults.replace_unreadable(step, next(micro_steps), telemetry.say)
            result = train_step(self.engine, self.groups, readable, self.recipe.losses, profiler)
        frames = self.data.num_frames([micro_step.plan for micro_step in readable])
        progress = progress.after_step(frames, is_applied=result.is_applied)
        counts = {"skipped_steps": progress.num_skipped} | self.faults.counts() | progress.frame_counts()
        measured = profiler.values() if is_logged else {}
        telemetry.log(step, result.logs | rates | counts | measured)
        if result.is_applied and self.average is not None:
            self.average.update(self.engine.shards(), progress.step - progress.num_skipped)
        if not result.is_applied:
            culprits = ", ".join(result.culprits)
            telemetry.say(f"step {step} skipped: loss or gradient not finite in {culprits}")
            if progress.num_skipped_in_a_row >= self.recipe.optim.max_skipped_steps:
                raise UserError(
                    f"stopped after {progress.num_skipped_in_a_row} skipped steps in a row "
                    f"(optim.max_skipped_steps); last: {culprits}"
                )
        return progress

    def _seed_dropout(self, step: int) -> None:
        """Let what adapters drop depend on the step and the rank alone: a resumed run drops the same."""
        lora = self.recipe.model.lora
        if lora is not None and lora.dropout > 0:
            generator = np.random.default_rng([self.recipe.seed, step, self.engine.process.rank])
            torch.manual_seed(int(generator.integers(2**63)))

    def _open_telemetry(self, first_step: int) -> Telemetry:
        recipe = self.recipe
        with raise_on_all_ranks():
            return Telemetry(
                recipe.telemetry,
                self.folder,
                self.engine.accelerator,
                num_steps=recipe.optim.num_steps,
                first_step=first_step,
                name=recipe.run_name,
            )

    def _prepare_run(self) -> Progress:
        """Make the output folder, restore the checkpoint to go on from and return how far the run is."""
        resume, num_steps = self.recipe.resume, self.recipe.optim.num_steps
        source = checkpoint_to_resume(resume, num_steps, self.checkpoints, self.engine, self._say)
        with raise_on_all_ranks():
            if self.engine.process.is_main:
                remove_leftovers_within(self.folder)
                if source is not None:
                    adopt_records(source, self.folder)
                self._write_recipe(is_resumed=source is not None)
        progress = Progress()
        if source is not None:
            progress = self._restore(source)
        self.faults.resume(progress.step)
        return progress

    def _restore(self, source: Path) -> Progress:
        progress = self.checkpoints.restore(self.engine, source, self.average, self._say)
        self._say(f"going on from {source} after step {progress.step}")
        changes = from_main(lambda: recipe_changes(source, self.recipe, progress.step))
        say_changes(changes, self._say)
        self.guard.restore(progress.guard)
        self.best.restore(progress.best)
        self.early_stopping.restore(progress.early_stopping)
        return replace(progress, recipe_changes=[*progress.recipe_changes, *changes])

    def _say(self, line: str) -> None:
        if self.engine.process.is_main:
            tell(*line.splitlines())

    def _write_recipe(self, *, is_resumed: bool) -> None:
        folder = self.folder
        with writing(f"output_dir {folder}"):
            check_mixture(folder, self.data.sources, self.data.dataset.indexes, is_resumed=is_resumed)
            write_text_atomically(folder / "recipe.yaml", dump_yaml(self.recipe))

    def _micro_steps(self, first_step: int, num_steps: int) -> Iterator[list[MicroStep]]:
        """Yield the plans and data of each optimizer step."""
        count = self.recipe.optim.accumulation_steps
        plans = range(first_step * count, num_steps * count)
        limit_s = 60 * self.recipe.parallel.timeout_minutes  # the others would wait no longer either
        batches = step_loader(self.data.dataset, plans, self.recipe.data.num_workers, limit_s)
        for step in range(first_step, num_steps):
            yield [MicroStep(self.data.plan(step * count + place), next(batches)) for place in range(count)]

    def _plan_validation(self) -> PlannedData | None:
        settings = self.recipe.validation
        if settings.every == 0 or not settings.sources:
            return None
        data = DataSettings(sources=settings.sources, deny_list="off")
        return plan_data(data, settings.curriculum, self.recipe.seed + VALIDATION_SEED_OFFSET, *self._place)

    def _is_validation_due(self, step: int) -> bool:
        every = self.recipe.validation.every
        return every > 0 and (step % every == 0 or step == self.recipe.optim.num_steps)

    def _validate(self, telemetry: Telemetry, step: int) -> bool:
        """Validate and return whether it was the best time of the run."""
        if self.validation is None:
            return False
        data, recipe = self.validation, self.recipe
        values = validate(
            self.engine,
            self.groups,
            data.plan,
            data.dataset,
            recipe.validation.num_windows,
            recipe.losses,
            self.pictures.look,
        )
        telemetry.log(step, values, always=True)
        telemetry.show(step, self.pictures.take())
        is_best = self.best.check(step, values)
        self.early_stopping.check(step, values)
        telemetry.say(
            validation_line(step, recipe.optim.num_steps, values, self.best.metric if is_best else "")
        )
        self.guard.check(step, values)
        return is_best

    def _export_final(self, step: int) -> None:
        """Leave the weights of the last step as output_dir/model, those of the best checkpoint as model_best."""
        with raise_on_all_ranks():
            if self.engine.process.is_main:
                self._leave_weights(self.checkpoints.of_step(step), step)
                if self.recipe.checkpoint.best is not None and self.best.step is not None:
                    best = self.checkpoints.of_step(self.best.step)
                    if best.is_dir():
                        self._leave_weights(best, self.best.step, "_best")

    def _leave_weights(self, checkpoint: Path, step: int, suffix: str = "") -> None:
        """Leave the weights of a checkpoint in output_dir: all of them, or as the best ones those that count."""
        names = ("model", ADAPTERS) if suffix else ("model*", f"{ADAPTERS}*")
        for source in sorted(path for name in names for path in checkpoint.glob(name)):
            self._leave(source, source.name.replace(ADAPTERS, "model") + suffix, step)

    def _leave(self, source: Path, name: str, step: int) -> None:
        """Leave a checkpoint's weights as output_dir/name; adapters beside it, and merged into their base there."""
        target = self.folder / name
        if self.checkpoints.base is None:
            replace_folder(source, target)
            return
        adapters = self.folder / name.replace("model", ADAPTERS)
        replace_folder(source, adapters)
        size = self.recipe.checkpoint.max_shard_size
        make_folder(target, partial(merge_adapters, adapters, max_shard_size=size))
        self.card.describe(target, step)
