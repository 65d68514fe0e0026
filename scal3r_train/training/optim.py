"""Optimizer and learning-rate schedule: one rate for the memories, one for the backbone."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from scal3r_train.config import StrictModel

MEMORY_PREFIX = "aggregator.memory_units."


class OptimSettings(StrictModel):
    """The `optim` section of a training recipe."""

    num_steps: int = Field(default=1000, ge=1, description="optimizer steps")
    memory_lr: float = Field(
        default=1e-4, gt=0, description="peak learning rate of the Adaptive Memory Units"
    )
    backbone_lr: float = Field(default=1e-5, gt=0, description="peak learning rate of everything else")
    weight_decay: float = Field(default=0.05, ge=0, description="of matrices; vectors are not decayed")
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = Field(default=0, ge=0, description="linear warm-up from zero")
    min_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="end of the cosine, relative to the peak"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="maximum norm of the whole gradient")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="also keep a moving average of the weights (model_ema/)"
    )
    accumulation_steps: int = Field(default=1, ge=1, description="step plans per optimizer step")
    max_skipped_steps: int = Field(
        default=5, ge=1, description="steps in a row without finite loss and gradient that end the run"
    )


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, object]]:
    """Return AdamW's groups: memory and backbone, each with and without weight decay.

    Fast weights are stacks of matrices and decay like them; norms, biases and tokens do not.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "memory" if name.startswith(MEMORY_PREFIX) else "backbone"
        is_matrix = parameter.dim() >= 2 and "token" not in name
        groups.setdefault(f"{part}_{'decayed' if is_matrix else 'plain'}", []).append(parameter)
    rates = {"memory": settings.memory_lr, "backbone": settings.backbone_lr}
    return [
        {
            "name": name,
            "params": parameters,
            "lr": rates[name.split("_")[0]],
            "weight_decay": settings.weight_decay if name.endswith("decayed") else 0.0,
        }
        for name, parameters in sorted(groups.items())
    ]


def build_optimizer(model: nn.Module, settings: OptimSettings) -> tuple[torch.optim.AdamW, LRScheduler]:
    """Return AdamW and its warm-up and cosine schedule over `num_steps`."""
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=settings.betas, eps=1e-8)
    scheduler = get_scheduler(
        "cosine_with_min_lr",
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=settings.num_steps,
        scheduler_specific_kwargs={"min_lr_rate": settings.min_lr_ratio},
    )
    return optimizer, scheduler
