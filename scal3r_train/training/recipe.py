"""What a training recipe says: the sections of all parts of a run, composed into one strict document.

`scal3r_train.recipe` reads the file. Importing this loads none of transformers' models, which takes seconds that
`scal3r plan` has no use for.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model, model_validator

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.sources import DataSettings
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import MemoryUse, Scal3RConfig
from scal3r_train.model.kernels import AttentionName
from scal3r_train.model.lora import LoraSettings
from scal3r_train.model.network_bounds import BOUNDS
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.training.checkpointing.checkpoint import CheckpointSettings
from scal3r_train.training.freezing import FrozenDtype, TrainedParts
from scal3r_train.training.monitoring.telemetry import TelemetrySettings
from scal3r_train.training.optim import OptimSettings
from scal3r_train.training.validation import ValidationSettings

# One entry of the docstring's list of attributes; its text may go on in lines that are indented further.
ATTRIBUTE = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)


def _network_fields() -> dict[str, Any]:
    """Return Scal3RConfig's own parameters as settings fields: the network's sizes are described once, there."""
    hints = typing.get_type_hints(Scal3RConfig.__init__)
    defaults = typing.cast(Any, Scal3RConfig.__init__).__defaults__
    code = Scal3RConfig.__init__.__code__
    names = code.co_varnames[1 : code.co_argcount]
    described = dict(ATTRIBUTE.findall(Scal3RConfig.__doc__ or ""))
    fields: dict[str, Any] = {}
    for name, default in zip(names, defaults, strict=True):
        least, most = BOUNDS.get(name, (None, None))
        fields[name] = hints[name], Field(default=default, ge=least, le=most, description=described.get(name))
    return fields


NetworkSettings = create_model(
    "NetworkSettings",
    __base__=StrictModel,
    __doc__="The network's sizes and switches, those of `Scal3RConfig`.",
    **_network_fields(),
)


class TrainedModelSettings(StrictModel):
    """The `model` section of a training recipe: a checkpoint to start from, or a network to initialise."""

    checkpoint: str | None = Field(default=None, description="save_pretrained folder to start from")
    network: NetworkSettings | None = Field(
        default=None, description="sizes of a network to initialise; null: that of checkpoint"
    )  # type: ignore[valid-type]
    encoder: str | None = Field(
        default=None,
        description="save_pretrained folder whose patch encoder a new network begins with; null: a random one",
    )
    memory: MemoryUse | None = Field(
        default=None,
        description="what chunks learn of each other from here on: of the whole sequence, each of itself alone, or "
        "without memories; null: as the checkpoint or the network says",
    )
    activation_checkpointing: CheckpointingMode = Field(
        default="none",
        description="what backward recomputes: nothing, each block, or everything between two memories",
    )
    chunks_per_pass: int | None = Field(
        default=None,
        ge=1,
        description="chunks of a sequence that pass the network together; fewer take less memory, null is all [chunks]",
    )
    attention: AttentionName = Field(
        default="sdpa",
        description="kernel of attention, by transformers' name; flash kernels need their package",
    )
    compile: bool = Field(
        default=False, description="torch.compile each block; the first steps then take minutes"
    )
    train: TrainedParts = Field(default="all", description="what is trained; the rest of the model is frozen")
    frozen_dtype: FrozenDtype = Field(
        default="fp32", description="how the matrices of a frozen encoder and frozen blocks are stored"
    )

    lora: LoraSettings | None = Field(
        default=None, description="low-rank adapters on the frozen backbone; null: none"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainedModelSettings:
        if (self.checkpoint is None) == (self.network is None):
            raise ValueError("give either checkpoint or network")
        if self.checkpoint is not None and self.encoder is not None:
            raise ValueError("encoder is for a new network; checkpoint brings its own: give one of the two")
        if self.network is not None:
            if self.memory is not None:
                raise ValueError(
                    "memory changes a checkpoint; of a network set network.memory_scope or network.memory_layers"
                )
            config = Scal3RConfig(**self.network.model_dump())
            if self.train not in ("all", "patch_encoder") and not config.memory_layers:
                raise ValueError(f"train {self.train} needs memories, and network.memory_layers is empty")
        if self.memory == "off" and self.train not in ("all", "patch_encoder"):
            raise ValueError(f"train {self.train} needs memories, and memory is off")
        if self.train == "all" and self.frozen_dtype != "fp32":
            raise ValueError(
                f"frozen_dtype {self.frozen_dtype} has nothing to act on: train all freezes nothing"
            )
        if self.lora is not None and self.train == "all":
            raise ValueError(
                "lora adapts a frozen backbone: set model.train to memories or memories_and_heads"
            )
        return self


class TrainingRecipe(StrictModel):
    """One training run."""

    task: Literal["train"] = Field(default="train", description="kind of recipe: a training run")
    name: str | None = Field(
        default=None,
        min_length=1,
        description="name of the run, for its card, Weights & Biases and TensorBoard; null: that of the output folder",
    )
    seed: int = Field(
        default=0, ge=0, description="seed of initial weights, plans of steps and augmentation [-]"
    )
    output_dir: str = Field(description="folder of the run's files")
    resume: str = Field(
        default="auto",
        min_length=1,
        description="auto: go on from the newest checkpoint in output_dir, if there is one; none: refuse a folder that "
        "holds a run; a path: go on from that checkpoint, or the newest of that run folder, in this output_dir",
    )
    model: TrainedModelSettings
    parallel: ParallelSettings = ParallelSettings()
    data: DataSettings
    curriculum: CurriculumSettings = CurriculumSettings()
    losses: ObjectiveSettings = ObjectiveSettings()
    optim: OptimSettings = OptimSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def run_name(self) -> str:
        """What the run is called."""
        return self.name or Path(self.output_dir).resolve().name or "run"

    @property
    def final_image_hw(self) -> tuple[int, int]:
        """Largest height and width of images that the run ends with."""
        sizes = self.curriculum.every_stage()[-1].resolution
        return max(((size.height, size.width) for size in sizes), key=lambda hw: hw[0] * hw[1])

    @model_validator(mode="after")
    def _check(self) -> TrainingRecipe:
        if self.checkpoint.best is not None and self.validation.every == 0:
            raise ValueError(
                "checkpoint.best needs validations to compare; set validation.every, or best to null"
            )
        if self.model.network is not None:
            require_whole_patches(self, self.model.network.model_dump()["patch_size"])
        if self.model.frozen_dtype == "bf16" and self.parallel.precision == "fp32":
            raise ValueError(
                "model.frozen_dtype bf16 needs parallel.precision bf16: fp32 tokens meet no bf16 matrices"
            )
        return self


def require_whole_patches(recipe: TrainingRecipe, patch_size: int) -> None:
    """Raise UserError unless every resolution is a multiple of the patch size, which a checkpoint says late."""
    for curriculum in (*recipe.curriculum.every_stage(), recipe.validation.curriculum):
        for size in curriculum.resolution:
            if size.height % patch_size or size.width % patch_size:
                raise UserError(
                    f"resolution {size.height}x{size.width} must be a multiple of patch_size {patch_size}"
                )
