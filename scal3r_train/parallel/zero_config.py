"""DeepSpeed's configuration: the launcher's where it gave one, ours where it left things open."""

from __future__ import annotations

from typing import Any

from scal3r_train.parallel.launch import launched_engine, launched_zero_config
from scal3r_train.parallel.settings import EngineName

# Bytes in flight per bucket are 4 times these numbers.
BUCKET_NUMEL = 50_000_000
ZERO_OPTIMIZATION: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero3_offload": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "offload_param": {"device": "cpu", "pin_memory": False},
    },
}


def zero_config(
    name: EngineName, precision: str, clip_norm: float, accumulation_steps: int
) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`.

    Whatever the recipe decides (precision, clipping, accumulation) is set here, whatever else the launcher's file
    says (buckets, offload devices, thresholds) is kept.
    """
    if launched_engine() is None:
        config: dict[str, Any] = {"zero_optimization": dict(ZERO_OPTIMIZATION[name])}
    else:
        config = {key: value for key, value in launched_zero_config().items() if value != "auto"}
    zero = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    defaults = {
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_NUMEL,
        "allgather_bucket_size": BUCKET_NUMEL,
    }
    config.pop("bf16", None)
    config.pop("fp16", None)
    return config | {
        "zero_optimization": defaults | zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": clip_norm,
        # No module's traffic is lowered to bf16: gradients and gathered parameters travel in fp32.
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
