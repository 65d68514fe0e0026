"""The device's memory: peaks of the allocator, and what happens when it runs out. On a CPU there is nothing to see."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

GIB = 2**30
# cuBLAS and cuDNN allocate by themselves and say so in their own words.
OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def restart_peaks(device: torch.device) -> None:
    """Give back what the allocator keeps and count peaks from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: torch.device) -> dict[str, float]:
    """Return the most GiB in tensors and the most that the allocator took from the device; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize()
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def fits(work: Callable[[], object], forget: Callable[[], None], device: torch.device) -> bool:
    """Return whether some work fits into the memory; when it does not, nothing of it is left there.

    The error is let go before the memory is given back: its traceback holds the frames, and these the tensors.
    """
    try:
        work()
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        ran_out = True
    else:
        ran_out = False
    if ran_out:
        forget()
        restart_peaks(device)
    return not ran_out


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that the memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
