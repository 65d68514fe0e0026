"""The precision of encoder and attention; memories and heads leave autocast by themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which the model runs: bf16 autocast or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
