"""Optimizer and learning-rate schedule: one rate for the memories, one for the backbone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from scal3r_train.config import StrictModel
from scal3r_train.data.sampling.curriculum import MAX_COUNT, Stage, check_stages, stage_at

Part = Literal["memory", "backbone"]
Decay = Annotated[float, Field(ge=0, lt=1)]
MEMORY_PREFIX = "aggregator.memory_units."


class OptimStage(Stage):
    """The peak learning rates of some consecutive steps; one that is not given is the section's own."""

    memory_lr: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of the memories in this stage; null: that of the section [rate]",
    )
    backbone_lr: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of everything else in this stage; null: that of the section [rate]",
    )


class OptimSettings(StrictModel):
    """The `optim` section of a training recipe."""

    num_steps: int = Field(
        default=1000, ge=1, description="how long the run is, in updates of the optimizer [steps]"
    )
    memory_lr: float = Field(
        default=1e-4, gt=0, description="peak learning rate of the Adaptive Memory Units [rate]"
    )
    backbone_lr: float = Field(default=1e-5, gt=0, description="peak learning rate of everything else [rate]")
    weight_decay: float = Field(
        default=0.05, ge=0, description="weight decay of matrices; vectors are not decayed [factor]"
    )
    betas: tuple[Decay, Decay] = Field(
        default=(0.9, 0.95),
        description="AdamW's decay of its averages of the gradient and of its square [factor]",
    )
    warmup_steps: int = Field(default=0, ge=0, description="length of the linear warm-up from zero [steps]")
    min_lr_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="learning rate at the end of the cosine, relative to the peak [share]",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="maximum norm of the whole gradient [gradient norm]"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, kept beside them (model_ema/), less in the first steps "
        "(docs/training.md#files-of-a-run); null: none [factor]",
    )
    accumulation_steps: int = Field(
        default=1, ge=1, le=MAX_COUNT, description="step plans per optimizer step [step plans]"
    )
    max_skipped_steps: int = Field(
        default=5,
        ge=1,
        description="steps in a row without finite loss and gradient that end the run [steps]",
    )
    stages: tuple[OptimStage, ...] = Field(
        default=(), description="other peak learning rates by step; warm-up and cosine stay those of the run"
    )

    @model_validator(mode="after")
    def _check(self) -> OptimSettings:
        check_stages(self.stages)
        return self

    def peak_lr(self, part: Part, step: int) -> float:
        """Return the learning rate of a step that the warm-up leads to and the cosine starts from."""
        stage = stage_at(self.stages, step)
        if part == "memory":
            return (stage and stage.memory_lr) or self.memory_lr
        return (stage and stage.backbone_lr) or self.backbone_lr


def warmup_and_cosine(settings: OptimSettings, step: int) -> float:
    """Return the share of the peak learning rate at a step: from 0 up in a line, then half a cosine down."""
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.num_steps - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return cosine * (1 - settings.min_lr_ratio) + settings.min_lr_ratio


def learning_rate_factor(settings: OptimSettings, part: Part, step: int) -> float:
    """Return the learning rate of a step in units of `memory_lr` or `backbone_lr`; a pure function of the step."""
    base = settings.memory_lr if part == "memory" else settings.backbone_lr
    return settings.peak_lr(part, step) / base * warmup_and_cosine(settings, step)


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, object]]:
    """Return AdamW's groups: memory and backbone, each with and without weight decay; only those with members.

    Fast weights are stacks of matrices and decay like them; norms, biases and tokens do not.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "memory" if name.startswith(MEMORY_PREFIX) else "backbone"
        is_matrix = parameter.dim() >= 2 and "token" not in name
        groups.setdefault(f"{part}_{'decayed' if is_matrix else 'plain'}", []).append(parameter)
    rates: dict[Part, float] = {"memory": settings.memory_lr, "backbone": settings.backbone_lr}
    return [
        {
            "name": name,
            "params": parameters,
            "lr": rates[_part_of(name)],
            "weight_decay": settings.weight_decay if name.endswith("decayed") else 0.0,
        }
        for name, parameters in sorted(groups.items())
    ]


def build_optimizer(model: nn.Module, settings: OptimSettings) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Return AdamW and its schedule, which is `learning_rate_factor` of the step and remembers nothing else."""
    groups = parameter_groups(model, settings)
    optimizer = torch.optim.AdamW(groups, betas=settings.betas, eps=1e-8)
    # Partials, not lambdas: the schedule can be sent to another process.
    factors: list[Callable[[int], float]] = [
        partial(learning_rate_factor, settings, _part_of(str(group["name"]))) for group in groups
    ]
    return optimizer, LambdaLR(optimizer, factors)


def _part_of(group_name: str) -> Part:
    return "memory" if group_name.startswith("memory") else "backbone"
