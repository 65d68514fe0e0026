"""Which arithmetic the network's products use: the one place that decides (docs/numerics.md#precision).

Training and reconstruction both run the network in `computing`, and training its backward in `float32_products`. Full
precision is IEEE float32 everywhere, convolutions included. Reduced precision is bfloat16 autocast for encoder and
attention, and TensorFloat-32 operands with float32 sums for what stays float32: writing, querying and reading a memory,
and the heads. The update of a memory amplifies rounding (docs/numerics.md#conditioning) and is strict in both. On the
CPU, which has no TensorFloat-32, only autocast differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def computing(device: torch.device, *, reduced: bool) -> Iterator[None]:
    """Run a forward in full or in reduced precision."""
    with (
        float32_products(device, reduced=reduced),
        torch.autocast(device.type, torch.bfloat16, enabled=reduced),
    ):
        yield


@contextmanager
def float32_products(device: torch.device, *, reduced: bool) -> Iterator[None]:
    """Let float32 products on an accelerator, forward and backward, use TF32 operands or IEEE float32 within.

    The switches are those of the process: what other threads start meanwhile follows them too.
    """
    if device.type == "cpu":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = reduced
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def strict_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b for batches of matrices of equal number, in IEEE float32 whatever the precision around it.

    So is its gradient, which is computed when the context of the forward is long left.
    """
    if a.device.type == "cpu" or a.dtype != torch.float32:
        return a @ b
    return _StrictProduct.apply(a, b)


class _StrictProduct(torch.autograd.Function):
    """A product and its gradient without TF32."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with float32_products(a.device, reduced=False):
            return a @ b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        with float32_products(a.device, reduced=False):
            return gradient @ b.mT, a.mT @ gradient
