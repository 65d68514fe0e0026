"""Kernels whose result does not depend on the order in which a GPU's threads come along."""

from __future__ import annotations

import os

import torch


def choose_kernels(*, deterministic: bool) -> None:
    """Let torch use deterministic kernels alone, or any; before the first call into CUDA.

    The backward of resampling and whatever adds through atomics are otherwise different from run to run in the last
    bits. An operation that has no deterministic kernel then raises and names itself. On the CPU nothing changes.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(deterministic)
    # Fresh memory would else be filled with NaN at every allocation, to show reads of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
