"""What this project asks of DeepSpeed where the launcher leaves it open; read by the engine and by the planner."""

from __future__ import annotations

from typing import Any

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
