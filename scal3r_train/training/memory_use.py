"""How much memory the ranks use."""

from __future__ import annotations

import psutil
import torch

from scal3r_train.parallel.collectives import maximum_over_world

GIB = 2**30


def memory_use(device: torch.device) -> dict[str, float]:
    """Return the most of any rank in GiB: resident set now and, on CUDA, the allocator's peaks since the start.

    All ranks call this.
    """
    values = {"memory/resident_gib": float(psutil.Process().memory_info().rss)}
    if device.type == "cuda":
        values["memory/allocated_gib"] = float(torch.cuda.max_memory_allocated(device))
        values["memory/reserved_gib"] = float(torch.cuda.max_memory_reserved(device))
    most = maximum_over_world(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return {key: value / GIB for key, value in zip(values, most.tolist(), strict=True)}
