"""Which arithmetic float32 products and convolutions use on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "TensorFloat-32", "bfloat16")


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Let them use TensorFloat-32, or IEEE float32 for any other name.

    Through one pair of switches: torch refuses to say what `set_float32_matmul_precision` and these have set together.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "TensorFloat-32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
