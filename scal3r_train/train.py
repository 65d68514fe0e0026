"""Train a recipe: what `accelerate launch`, torchrun and `scal3r train` start.

torchrun --nproc-per-node 2 -m scal3r_train.train recipes/demo.yaml [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from accelerate.utils import set_seed

from scal3r_train.config import UserError, run_command
from scal3r_train.model.adapted_weights import AdaptedWeights
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.kernels import use_kernels
from scal3r_train.model.load_model import MEMORY_WEIGHTS, PATCH_ENCODER_WEIGHTS, load_config
from scal3r_train.model.lora import add_adapters
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.stored_weights import StoredWeights
from scal3r_train.notes import tell
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.collectives import entered_on_main
from scal3r_train.parallel.determinism import choose_kernels
from scal3r_train.parallel.engine import Engine
from scal3r_train.parallel.failure_propagation import START_LIMIT, failing_together
from scal3r_train.parallel.folder_lock import lock_inside, owned
from scal3r_train.parallel.process import joined_processes
from scal3r_train.parallel.settings import EngineName
from scal3r_train.parallel.weights import without_storage
from scal3r_train.planning.predicted_peak import predicted_peak
from scal3r_train.planning.step_bytes import Numerics
from scal3r_train.recipe import load_training_recipe
from scal3r_train.training.agreement import require_agreement
from scal3r_train.training.freezing import choose_trained
from scal3r_train.training.recipe import TrainedModelSettings, TrainingRecipe, require_whole_patches
from scal3r_train.training.run_summary import as_table
from scal3r_train.training.stop import EXIT_STOPPED
from scal3r_train.training.trainer import Trainer

MIB, GIB = 2**20, 2**30


def stored_weights(settings: TrainedModelSettings) -> StoredWeights | None:
    """Return the weights that the recipe starts from; None where it starts from random ones.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    if settings.checkpoint is None:
        return None
    if settings.lora is not None:
        return AdaptedWeights(Path(settings.checkpoint), settings.lora)
    return StoredWeights(Path(settings.checkpoint))


def build_model(settings: TrainedModelSettings, weights: StoredWeights | None = None) -> Scal3RModel:
    """Return the model a recipe asks for, partly frozen, with its adapters.

    Without `weights` it is initialised from the current random state, maybe with another model's encoder. With them it
    has no storage: each process will read what it is to hold.

    Raises:
        UserError: the checkpoint does not hold exactly the model's weights, or lacks the part that is to be trained;
            the encoder has other sizes; the attention cannot be used here; adapters without a checkpoint or without
            peft.
    """
    if weights is None:
        if settings.lora is not None:
            raise UserError(
                "model.lora adapts a trained backbone: give model.checkpoint instead of model.network"
            )
        assert settings.network is not None
        model = Scal3RModel(Scal3RConfig(**settings.network.model_dump()))
        if settings.encoder is not None:
            _take_encoder(model, Path(settings.encoder))
    else:
        config = load_config(weights.folder, settings.memory)
        with without_storage():
            model = Scal3RModel(config)
        weights.require_fit(model, unused=MEMORY_WEIGHTS if settings.memory == "off" else None)
        if settings.lora is not None:
            with without_storage():
                add_adapters(model, settings.lora)
    choose_trained(model, settings.train, settings.frozen_dtype)
    model.set_activation_checkpointing(settings.activation_checkpointing)
    model.chunks_per_pass = settings.chunks_per_pass
    use_kernels(model, settings.attention, compile_blocks=settings.compile)
    return model


def _take_encoder(model: Scal3RModel, checkpoint: Path) -> None:
    """Copy the patch encoder's weights. Raises UserError where that encoder is another one."""
    weights = StoredWeights(checkpoint)
    theirs = load_config(weights.folder).encoder_settings
    for key, value in model.config.encoder_settings.items():
        if theirs.get(key) != value:
            raise UserError(
                f"the encoder of {checkpoint} has {key} {theirs.get(key)}, the new network {value}; give model.network "
                "the encoder's sizes in that folder's config.json"
            )
    weights.fill(model, PATCH_ENCODER_WEIGHTS)


def start_limit(argv: Sequence[str]) -> timedelta:
    """Return how long to wait for the peers; of a recipe that is refused the usual time: all are to hear why."""
    try:
        return timedelta(minutes=load_training_recipe(argv[0], argv[1:]).parallel.start_timeout_minutes)
    except UserError:
        return START_LIMIT


def main(argv: Sequence[str]) -> int:
    """Train the recipe `argv[0]` with the overrides that follow; every rank runs this."""
    if not argv:
        raise UserError("no recipe given; usage: python -m scal3r_train.train RECIPE [key=value ...]")
    with failing_together(start_limit(argv)):
        recipe = load_training_recipe(argv[0], argv[1:])
        choose_kernels(deterministic=recipe.parallel.deterministic)
        with joined_processes(timedelta(minutes=recipe.parallel.timeout_minutes)) as process:
            sources = recipe.data.sources + recipe.validation.sources
            require_agreement(recipe.model_dump(mode="json"), [source.index for source in sources])
            output = Path(recipe.output_dir)
            with entered_on_main(lambda: owned(lock_inside(output), f"output_dir {output}")):
                engine = build_engine(recipe.parallel, process, recipe.optim.accumulation_steps)
                _refuse_compiled_zero3(recipe, engine.name)
                set_seed(recipe.seed)  # equal on all ranks: they must start from the same weights
                weights = stored_weights(recipe.model)
                model = build_model(recipe.model, weights)
                require_whole_patches(recipe, model.config.patch_size)
                trainer = Trainer(recipe, engine, model, weights)
                if process.is_main:
                    tell(*as_table([*trainer.start_rows(), _predicted_memory(recipe, engine)]).splitlines())
                reason = trainer.fit()
                engine.close()
    return EXIT_STOPPED if reason else 0


def _predicted_memory(recipe: TrainingRecipe, engine: Engine) -> tuple[str, str]:
    """Return the row of the table of the start that says how much memory a step will need."""
    process, config = engine.process, engine.bare_model.config
    numerics: Numerics = "cuda" if process.device.type == "cuda" else "cpu"
    peak = predicted_peak(recipe, config, engine.name, process.world_size, numerics)
    shown = f"{peak / GIB:.3g} GiB" if peak >= GIB else f"{peak / MIB:.3g} MiB"
    return "memory", f"{shown} of tensors a rank in the largest step, predicted (scal3r plan says more)"


def _refuse_compiled_zero3(recipe: TrainingRecipe, engine: EngineName) -> None:
    """ZeRO-3 gathers parameters in hooks inside of a block, which cannot be compiled as one."""
    if recipe.model.compile and engine in ("zero3", "zero3_offload"):
        raise UserError(
            f"model.compile does not go with {engine}; use zero2 or fsdp2, or model.compile=false"
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
