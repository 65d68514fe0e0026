"""Which products may be TF32, without a GPU: the switches, and the product that ignores them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scal3r_train.model.precision import _StrictProduct, computing, float32_products, strict_product

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("before", [(False, True), (True, False)])
def test_an_accelerator_s_products_follow_the_precision_and_the_switches_come_back(reduced, before):
    original = switches()
    try:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        with float32_products(CUDA, reduced=reduced):
            assert switches() == (reduced, reduced)
            with float32_products(CUDA, reduced=not reduced):
                assert switches() == (not reduced, not reduced)
            assert switches() == (reduced, reduced)
        assert switches() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = original


def test_on_the_cpu_only_autocast_differs():
    before = switches()
    for reduced in (False, True):
        with computing(CPU, reduced=reduced):
            assert switches() == before
            assert torch.is_autocast_enabled("cpu") == reduced


def test_a_strict_product_is_strict_forward_and_backward_and_has_the_right_gradient(monkeypatch):
    """On the CPU by way of the function that accelerators take."""
    seen: list[bool] = []
    original = Tensor.__matmul__

    def watched(a: Tensor, b: Tensor) -> Tensor:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return original(a, b)

    def on_an_accelerator(device: torch.device, *, reduced: bool):
        return float32_products(CUDA, reduced=reduced)

    monkeypatch.setattr("scal3r_train.model.precision.float32_products", on_an_accelerator)
    monkeypatch.setattr(Tensor, "__matmul__", watched)
    a = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    with float32_products(CUDA, reduced=True):
        product = _StrictProduct.apply(a, b)
        product.sum().backward()
    assert seen == [False] * 3
    assert torch.autograd.gradcheck(_StrictProduct.apply, (a, b))
    assert torch.equal(product, a @ b)


def test_on_the_cpu_a_strict_product_is_the_plain_one():
    a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4, 3)
    product = strict_product(a, b)
    assert torch.equal(product, a @ b)
    assert type(product.grad_fn).__name__ == type((a @ b).grad_fn).__name__
