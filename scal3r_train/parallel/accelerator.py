"""The one `Accelerator` of a run: launch configuration, process state, wrapping, accumulation and trackers are its.

What it is told about an engine is in this file; docs/engines.md says what stays outside of it, and why.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
)
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

from scal3r_train.parallel.environment import kept_variables

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from scal3r_train.parallel.settings import EngineName

# What Accelerate notes there when it is given a plugin; a later run of the same process may have another engine.
PLUGIN_VARIABLES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")


def build_accelerator(
    name: EngineName, accumulation_steps: int, zero_config: dict[str, Any] | None = None
) -> Accelerator:
    """Return the run's Accelerator for an engine; the peers have been joined (process.py).

    Args:
        name: the engine.
        accumulation_steps: micro-steps of an optimizer step.
        zero_config: DeepSpeed's configuration, for the ZeRO engines.
    """
    with kept_variables(PLUGIN_VARIABLES):
        return Accelerator(
            cpu=not torch.cuda.is_available() and zero_config is None,
            mixed_precision="no",  # the recipe's precision leaves memories and heads alone, which theirs does not
            deepspeed_plugin=None if zero_config is None else _deepspeed_plugin(zero_config),
            fsdp_plugin=fsdp2_plugin() if name == "fsdp2" else None,
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=accumulation_steps, sync_with_dataloader=False
            ),
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )


def release_accelerator() -> None:
    """Forget the run's Accelerator, so that this process may have another run; its peers stay joined."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    if PartialState._shared_state:  # it was told the engine
        cpu = not torch.cuda.is_available()
        PartialState._reset_state()
        PartialState(cpu=cpu)


def fsdp2_plugin(model: nn.Module | None = None) -> FullyShardedDataParallelPlugin:
    """Return Accelerate's FSDP2 settings: the launcher's where it gave some.

    The units of `model` are the modules that it names as not to be split, whatever a launcher's wrap policy says.
    """
    with kept_variables(PLUGIN_VARIABLES):
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )
    if model is not None:
        present = {type(module).__name__ for module in model.modules()}
        named = cast(list[str], model._no_split_modules)
        plugin.transformer_cls_names_to_wrap = [name for name in named if name in present]
        plugin.set_auto_wrap_policy(model)
    return plugin


def fsdp2_units(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> list[nn.Module]:
    """Return the modules that Accelerate's policy gathers one at a time, in the order of `modules()`."""
    is_unit = cast("Callable[[nn.Module], bool]", fsdp2_prepare_auto_wrap_policy(plugin, model))
    return [module for module in model.modules() if module is not model and is_unit(module)]


def _deepspeed_plugin(config: dict[str, Any]) -> DeepSpeedPlugin:
    """Return the plugin of a configuration; the launcher's variables, read for it already, would contradict it."""
    prefixes = ("ACCELERATE_DEEPSPEED", "ACCELERATE_CONFIG_DS")
    with kept_variables([name for name in os.environ if name.startswith(prefixes)], hidden=True):
        return DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)
