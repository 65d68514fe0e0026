"""How blocks are executed: which attention kernel, and whether torch.compile fuses what lies around it.

Neither changes results beyond rounding. Settings of training and reconstruction alike; importing this loads no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from scal3r_train.config import UserError
from scal3r_train.model.block import CheckpointedBlock

if TYPE_CHECKING:  # recipes name the choices, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3RModel

AttentionName = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
# Graphs of one block's code: encoder, aggregator and camera head, with and without gradient and autocast, each at first
# for one shape and then for all.
MOST_GRAPHS = 64


def use_kernels(model: Scal3RModel, attention: AttentionName, *, compile_blocks: bool) -> None:
    """Let all blocks of a model run in these kernels, in place.

    Raises:
        UserError: the attention needs a package or a device that is not there.
    """
    try:
        model.set_attn_implementation(attention)
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.attention {attention} cannot be used: {reason}; sdpa always can") from error
    if compile_blocks:
        compile_each_block(model)


def compile_each_block(model: torch.nn.Module, backend: str = "inductor") -> None:
    """Compile the forward of every block, one region each: blocks of one kind share the compiled code.

    What checkpointing and sharding do happens around a region, as around a plain block.
    """
    # torch would go on uncompiled after 8 graphs of one function.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    for module in model.modules():
        if isinstance(module, CheckpointedBlock):
            module.compile_region(backend)
