"""What is trained, and in which precision the rest waits.

Freezing is `requires_grad` alone: autograd keeps nothing for the frozen blocks before the first memory, whose inputs
need no gradient, and for those after it only what the gradient passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from scal3r_train.config import UserError
from scal3r_train.model.lora import is_adapter
from scal3r_train.model.patch_encoder import DinoPatchEncoder

if TYPE_CHECKING:  # recipes name these choices, and importing transformers' models takes seconds
    from scal3r_train.losses.objective import ObjectiveSettings
    from scal3r_train.model.modeling_scal3r import Scal3RModel

TrainedParts = Literal["all", "memories", "memories_and_heads", "patch_encoder"]
FrozenDtype = Literal["fp32", "bf16"]


def choose_trained(model: Scal3RModel, train: TrainedParts, frozen_dtype: FrozenDtype) -> None:
    """Let the named parts require gradients and no others, and cast what is frozen, both in place.

    Adapters that the model has are always trained, in fp32.

    With bf16 the matrices of the frozen encoder and blocks are stored as autocast would round them at every use, so
    that no result changes. Their norms, biases and tokens, and frozen heads, are computed in fp32 and stay fp32.

    Raises:
        UserError: memories are to be trained and the model has none.
    """
    model.requires_grad_(train == "all")
    if train == "all":
        _freeze_unused(model)
        return
    if train == "patch_encoder":
        model.aggregator.patch_embed.requires_grad_(True)
    else:
        memories = model.aggregator.memory_units
        if len(memories) == 0:
            raise UserError(f"model.train {train}: the model has no memories (memory_layers is empty)")
        memories.requires_grad_(True)
    if train == "memories_and_heads":
        for head in model.heads.values():
            head.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.requires_grad_(True)
    if frozen_dtype == "bf16":
        _store_in_bf16(model.aggregator)


def _freeze_unused(model: Scal3RModel) -> None:
    """Engines wait for the gradient of every trainable parameter; this one exists for the published names only."""
    for module in model.modules():
        if isinstance(module, DinoPatchEncoder):
            module.mask_token.requires_grad_(False)


def _store_in_bf16(aggregator: nn.Module) -> None:
    for module in aggregator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
            module.weight = nn.Parameter(module.weight.to(torch.bfloat16), requires_grad=False)


def freeze_untrained_heads(model: Scal3RModel, losses: ObjectiveSettings) -> None:
    """Freeze heads that no loss teaches: engines wait for the gradient of every trainable parameter."""
    for name, head in model.heads.items():
        if name not in losses.heads:
            head.requires_grad_(False)
