"""What the launcher asked for: the engine, and its settings where the launcher has any.

`accelerate launch --config_file recipes/accelerate/X.yaml` states its choice in environment variables, which
Accelerate's own plugins read back. torchrun says nothing; a recipe may then name the engine (`parallel.engine`).
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

from scal3r_train.config import UserError
from scal3r_train.parallel.settings import EngineName

# What an accelerate config may ask of FSDP and this project does otherwise.
REFUSED_FSDP = {
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "it would load weights on rank 0 alone",
    "FSDP_OFFLOAD_PARAMS": "to keep parameters on the host use recipes/accelerate/zero3_offload.yaml",
    "FSDP_ACTIVATION_CHECKPOINTING": "the recipe's model section says what is recomputed",
}


def launched_engine() -> EngineName | None:
    """Return the sharding engine that `accelerate launch` set up; None when the launcher left it open.

    Raises:
        UserError: the configuration asks for something that this project does not run under.
    """
    _refuse_launcher_precision()
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return _zero_engine(launched_zero_config())
    if _is_set("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError("FSDP version 1 is not supported: set fsdp_version: 2 in the accelerate config")
        for variable, instead in REFUSED_FSDP.items():
            if _is_set(variable):
                raise UserError(f"{variable.lower()} in the accelerate config: set it to false; {instead}")
        return "fsdp2"
    return None


def launched_zero_config() -> dict[str, Any]:
    """Return the DeepSpeed configuration of the accelerate config file, entries that it leaves open being `auto`."""
    return DeepSpeedPlugin().deepspeed_config


def launched_reshard_after_forward() -> bool:
    """Return FSDP2's choice between freeing gathered parameters after forward (saves memory) and keeping them."""
    if not _is_set("ACCELERATE_USE_FSDP"):
        return True
    return bool(FullyShardedDataParallelPlugin(fsdp_version=2).reshard_after_forward)


def _zero_engine(config: dict[str, Any]) -> EngineName:
    zero = config["zero_optimization"]
    stage = zero["stage"]
    offloads = [
        key
        for key in ("offload_optimizer", "offload_param")
        if zero.get(key, {}).get("device", "none") != "none"
    ]
    if stage == 3:
        return "zero3_offload" if offloads else "zero3"
    if stage in (1, 2) and not offloads:
        return "zero1" if stage == 1 else "zero2"
    raise UserError(
        f"ZeRO stage {stage}{' with ' + ' and '.join(offloads) if offloads else ''} is not supported; use one of "
        "recipes/accelerate/zero1.yaml, zero2.yaml, zero3.yaml, zero3_offload.yaml"
    )


def _refuse_launcher_precision() -> None:
    """Precision is the recipe's: what a launcher's config says must not contradict it in silence."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", ""):
        raise UserError(
            f"mixed_precision: {precision} in the accelerate config has no effect here: set it to 'no' and choose "
            "parallel.precision in the recipe"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
