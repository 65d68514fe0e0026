"""Recipes: every floor's settings composed into one strict document."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, create_model, model_validator

from scal3r_train.config import StrictModel, UserError, load_mapping, validate_mapping
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.sources import DataSettings
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.training.checkpointing.checkpoint import CheckpointSettings
from scal3r_train.training.freezing import FrozenDtype, TrainedParts
from scal3r_train.training.monitoring.telemetry import TelemetrySettings
from scal3r_train.training.optim import OptimSettings
from scal3r_train.training.validation import ValidationSettings

if TYPE_CHECKING:
    from scal3r_train.inference.settings import ReconstructionRecipe

    Recipe: TypeAlias = "TrainingRecipe | ReconstructionRecipe"

TASKS = ("train", "reconstruct")
COMMANDS_ABOVE = {
    "eval": "scal3r eval",
    "study": "python -m scal3r_eval.study",
}  # whose recipes a higher floor reads


def _network_fields() -> dict[str, Any]:
    """Return Scal3RConfig's own parameters as settings fields: the network's sizes are written down once, there."""
    hints = typing.get_type_hints(Scal3RConfig.__init__)
    defaults = typing.cast(Any, Scal3RConfig.__init__).__defaults__
    code = Scal3RConfig.__init__.__code__
    names = code.co_varnames[1 : code.co_argcount]
    return {name: (hints[name], default) for name, default in zip(names, defaults, strict=True)}


NetworkSettings = create_model("NetworkSettings", __base__=StrictModel, **_network_fields())


class ModelSettings(StrictModel):
    """The `model` section of a training recipe: a checkpoint to start from, or a network to initialise."""

    checkpoint: str | None = Field(default=None, description="save_pretrained folder to start from")
    network: NetworkSettings | None = Field(default=None, description="sizes, see Scal3RConfig")  # type: ignore[valid-type]
    activation_checkpointing: CheckpointingMode = Field(
        default="none",
        description="what backward recomputes: nothing, each block, or everything between two memories",
    )
    chunks_per_pass: int | None = Field(
        default=None,
        ge=1,
        description="chunks of a sequence that pass the network together; fewer take less memory, null is all",
    )
    train: TrainedParts = Field(default="all", description="what is trained; the rest of the model is frozen")
    frozen_dtype: FrozenDtype = Field(
        default="fp32", description="how the matrices of a frozen encoder and frozen blocks are stored"
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if (self.checkpoint is None) == (self.network is None):
            raise ValueError("give either checkpoint or network")
        if self.network is not None:
            config = Scal3RConfig(**self.network.model_dump())
            if self.train != "all" and not config.memory_layers:
                raise ValueError(f"train {self.train} needs memories, and network.memory_layers is empty")
        if self.train == "all" and self.frozen_dtype != "fp32":
            raise ValueError(
                f"frozen_dtype {self.frozen_dtype} has nothing to act on: train all freezes nothing"
            )
        return self


class TrainingRecipe(StrictModel):
    """One training run."""

    task: Literal["train"] = "train"
    name: str = "run"
    seed: int = Field(default=0, ge=0)
    output_dir: str = Field(description="where the run's files go")
    model: ModelSettings
    parallel: ParallelSettings = ParallelSettings()
    data: DataSettings
    curriculum: CurriculumSettings = CurriculumSettings()
    losses: ObjectiveSettings = ObjectiveSettings()
    optim: OptimSettings = OptimSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _check(self) -> TrainingRecipe:
        if self.model.network is not None:
            require_whole_patches(self, self.model.network.model_dump()["patch_size"])
        if self.model.frozen_dtype == "bf16" and self.parallel.precision == "fp32":
            raise ValueError(
                "model.frozen_dtype bf16 needs parallel.precision bf16: fp32 tokens meet no bf16 matrices"
            )
        return self


def require_whole_patches(recipe: TrainingRecipe, patch_size: int) -> None:
    """Raise UserError unless every resolution is a multiple of the patch size, which a checkpoint tells late."""
    for curriculum in (*recipe.curriculum.every_stage(), recipe.validation.curriculum):
        for size in curriculum.resolution:
            if size.height % patch_size or size.width % patch_size:
                raise UserError(
                    f"resolution {size.height}x{size.width} must be a multiple of patch_size {patch_size}"
                )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a file, of the kind its `task` names (train when it names none).

    Raises:
        UserError: unreadable, unknown or contradictory; one line.
    """
    mapping = load_mapping(path, overrides)
    task = mapping.get("task", "train")
    if task in COMMANDS_ABOVE:
        raise UserError(f"{path} is a recipe for `{COMMANDS_ABOVE[task]}`")
    if task not in TASKS:
        raise UserError(f"{path}: task = {task!r}: it should be one of {', '.join(TASKS)}")
    return validate_mapping(_recipe_class(task), mapping, str(path))


def _recipe_class(task: str) -> type[Recipe]:
    if task == "train":
        return TrainingRecipe
    # Not at the top: reconstruction brings transformers' models along, which takes seconds.
    from scal3r_train.inference.settings import ReconstructionRecipe  # noqa: PLC0415

    return ReconstructionRecipe


def load_training_recipe(path: str | Path, overrides: Sequence[str] = ()) -> TrainingRecipe:
    """Return a training recipe.

    Raises:
        UserError: as `load_recipe`, or another kind of recipe.
    """
    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, TrainingRecipe):
        raise UserError(f"{path} is a recipe for `scal3r {recipe.task}`, not for training")
    return recipe
