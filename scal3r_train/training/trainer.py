"""The training loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scal3r_train.config import UserError, dump_yaml, write_text_atomically
from scal3r_train.data.dataset import PlannedData, plan_data, step_loader
from scal3r_train.data.io.reading_process import deaths_named
from scal3r_train.data.sampling.sources import DataSettings, available_data, check_mixture, skipped_message
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.collectives import raise_on_all_ranks
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.engine import Engine
from scal3r_train.parallel.weights import Weights
from scal3r_train.training.checkpointing.checkpoint import Checkpoints
from scal3r_train.training.checkpointing.ema import MovingAverage
from scal3r_train.training.checkpointing.export import replace_folder
from scal3r_train.training.checkpointing.run_card import CardWriter
from scal3r_train.training.checkpointing.saver import CheckpointSaver
from scal3r_train.training.data_faults import DataFaults
from scal3r_train.training.freezing import freeze_untrained_heads
from scal3r_train.training.monitoring.step_profiler import StepProfiler
from scal3r_train.training.monitoring.telemetry import Telemetry
from scal3r_train.training.optim import build_optimizer
from scal3r_train.training.progress import Progress
from scal3r_train.training.recipe import TrainingRecipe
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
        validated = () if self.validation is None else self.validation.dataset.indexes
        self.card = CardWriter(recipe, engine, model, self.data.dataset.indexes, validated)
        freeze_untrained_heads(model, recipe.losses)
        optim = recipe.optim
        engine.prepare(model, lambda placed: build_optimizer(placed, optim), optim.clip_norm, weights)
        decay = recipe.optim.ema_decay
        self.average = None if decay is None else MovingAverage(decay, engine.shards())
        self.profiler = StepProfiler(engine, recipe.losses.heads)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", recipe.checkpoint)
        self.saver = CheckpointSaver(
            self.checkpoints.folder,
            recipe.checkpoint,
            engine,
            self.average,
            dump_yaml(recipe),
            self.card.describe,
        )

    def fit(self) -> str:
        """Train to the last step, from the newest intact checkpoint if the run has one.

        Returns:
            Empty when the run is complete, else why it was saved and stopped before.
        """
        recipe = self.recipe
        stop = StopRequest(recipe.checkpoint.max_hours)
        with listening_for_signals(stop), deaths_named():
            progress = self._prepare_run()
            micro_steps = self._micro_steps(progress.step, recipe.optim.num_steps)
            with self._open_telemetry(progress.step) as telemetry, self.saver.finished_when_alone():
                if skipped := skipped_message(recipe.data, self.available_data):
                    telemetry.say(skipped)
                reason = self._train(progress, micro_steps, telemetry, stop)
        if not reason:
            self._export_final()
        return reason

    def _train(
        self,
        progress: Progress,
        micro_steps: Iterator[list[MicroStep]],
        telemetry: Telemetry,
        stop: StopRequest,
    ) -> str:
        """Make steps until the last one or until a stop is asked for; return why it stopped."""
        engine, num_steps = self.engine, self.recipe.optim.num_steps
        if progress.step == 0:
            self._validate(telemetry, 0)
        engine.bare_model.train()
        while progress.step < num_steps:
            progress = self._step(progress, micro_steps, telemetry)
            if self._is_validation_due(progress.step):
                self._validate(telemetry, progress.step)
            reason, is_saving = stop.agreed(engine.process.device, is_busy=self.saver.is_busy)
            if not is_saving:
                self.saver.go_on()
            is_stopped = bool(reason) and progress.step < num_steps
            if is_stopped or self.checkpoints.is_due(progress.step, num_steps):
                progress = replace(progress, guard=self.guard.state())
                self.saver.start(progress)
            if is_stopped:
                self.saver.finish()
                telemetry.say(f"stopped after step {progress.step} ({reason}); the same command goes on")
                return reason
        self.saver.finish()
        return ""

    def _step(
        self, progress: Progress, micro_steps: Iterator[list[MicroStep]], telemetry: Telemetry
    ) -> Progress:
        """Make one optimizer step and report it."""
        step, profiler = progress.step + 1, self.profiler
        rates = {f"lr/{name}": rate for name, rate in self.engine.learning_rates.items()}
        is_logged = telemetry.is_due(step)
        with profiler.step(is_logged=is_logged):
            with profiler.phase("data"):
                readable = self.faults.replace_unreadable(step, next(micro_steps), telemetry.say)
            result = train_step(self.engine, self.groups, readable, self.recipe.losses, profiler)
        frames = self.data.num_frames([micro_step.plan for micro_step in readable])
        progress = progress.after_step(frames, is_applied=result.is_applied)
        counts = {"skipped_steps": progress.num_skipped} | self.faults.counts() | progress.frame_counts()
        measured = profiler.values() if is_logged else {}
        telemetry.log(step, result.logs | rates | counts | measured)
        if result.is_applied and self.average is not None:
            self.average.update(self.engine.shards())
        if not result.is_applied:
            culprits = ", ".join(result.culprits)
            telemetry.say(f"step {step} skipped: loss or gradient not finite in {culprits}")
            if progress.num_skipped_in_a_row >= self.recipe.optim.max_skipped_steps:
                raise UserError(
                    f"stopped after {progress.num_skipped_in_a_row} skipped steps in a row "
                    f"(optim.max_skipped_steps); last: {culprits}"
                )
        return progress

    def _open_telemetry(self, first_step: int) -> Telemetry:
        recipe = self.recipe
        with raise_on_all_ranks():
            return Telemetry(
                recipe.telemetry,
                self.folder,
                self.engine.accelerator,
                num_steps=recipe.optim.num_steps,
                first_step=first_step,
                name=recipe.name,
            )

    def _prepare_run(self) -> Progress:
        """Make the output folder, restore the newest intact checkpoint and return how far the run is."""
        newest = self.checkpoints.newest(self.engine, self._say)
        with raise_on_all_ranks():
            if self.engine.process.is_main:
                self._write_recipe(is_resumed=newest is not None)
        progress = Progress()
        if newest is not None:
            progress = self.checkpoints.restore(self.engine, newest, self.average, self._say)
            self.guard.restore(progress.guard)
        self.faults.resume(progress.step)
        return progress

    def _say(self, line: str) -> None:
        if self.engine.process.is_main:
            sys.stderr.write(f"{line}\n")

    def _write_recipe(self, *, is_resumed: bool) -> None:
        folder = self.folder
        try:
            check_mixture(folder, self.data.sources, self.data.dataset.indexes, is_resumed=is_resumed)
            write_text_atomically(folder / "recipe.yaml", dump_yaml(self.recipe))
        except OSError as error:
            raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None

    def _micro_steps(self, first_step: int, num_steps: int) -> Iterator[list[MicroStep]]:
        """Yield the plans and data of each optimizer step."""
        count = self.recipe.optim.accumulation_steps
        plans = range(first_step * count, num_steps * count)
        batches = step_loader(self.data.dataset, plans, self.recipe.data.num_workers)
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

    def _validate(self, telemetry: Telemetry, step: int) -> None:
        if self.validation is None:
            return
        data, count = self.validation, self.recipe.validation.num_windows
        values = validate(self.engine, self.groups, data.plan, data.dataset, count)
        telemetry.log(step, values, always=True)
        shown = "  ".join(f"{key.removeprefix('val/')} {value:.4g}" for key, value in values.items())
        telemetry.say(f"step {step:6d}  {shown}")
        self.guard.check(step, values)

    def _export_final(self) -> None:
        """Leave the trained weights as output_dir/model."""
        with raise_on_all_ranks():
            if self.engine.process.is_main:
                last = self.checkpoints.folder / f"step_{self.recipe.optim.num_steps:08d}"
                for source in sorted(last.glob("model*")):
                    replace_folder(source, self.folder / source.name)
