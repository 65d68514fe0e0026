"""Counting live bytes: views share, what is gone is not counted, shapes count as real tensors do."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.planning.live_bytes import ACTIVATIONS, GRADIENTS, LABELS, CountLiveBytes, LiveBytes
from scal3r_train.planning.shape_tensor import ShapesOnly

EVERYTHING = dict.fromkeys(LABELS, 1.0)


def peak_of(body: Callable[[], object], *, shapes_only: bool = False) -> int:
    live = LiveBytes()
    with ShapesOnly(live) if shapes_only else CountLiveBytes(live):
        live.restart_history()
        body()
    return live.peak(EVERYTHING)


def attend_and_learn() -> None:
    x = torch.randn(2, 3, 40, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = F.scaled_dot_product_attention(x, x, x) @ torch.randn(8, 8, requires_grad=True)
    y.float().square().sum().backward()


def in_place_and_views() -> None:
    x = torch.zeros(100)
    x.view(10, 10).add_(1).t()[2:].mul_(2)
    parts = [part * 2 for part in x.split(30)]
    torch.cat(parts)


def test_views_count_once_and_dead_tensors_not_at_all() -> None:
    def body() -> None:
        x = torch.zeros(1000)
        x = x.view(10, 100)[:5] + 1  # 4000 and 2000 bytes together, then 2000
        torch.ones(100)

    assert peak_of(body) == 6000


def test_labels_move_with_a_storage() -> None:
    live = LiveBytes()
    with CountLiveBytes(live):
        x = torch.zeros(10)
        live.relabel(x.untyped_storage(), GRADIENTS)
        live.restart_history()
    assert live.peak({GRADIENTS: 1}) == 40
    assert live.peak({ACTIVATIONS: 1}) == 0
    del x
    live.restart_history()
    assert live.peak(EVERYTHING) == 0


@pytest.mark.parametrize("body", [attend_and_learn, in_place_and_views])
def test_shapes_count_as_real_tensors_do(body: Callable[[], object]) -> None:
    real = peak_of(body)
    assert real > 400
    assert peak_of(body, shapes_only=True) == real


def test_shapes_alone_allocate_nothing_and_know_a_result_again() -> None:
    """A petabyte: the second pass takes results from the first."""
    live = LiveBytes()
    shapes = ShapesOnly(live)
    with torch.device("meta"):
        layer = nn.Linear(10**6, 10**6)
    shapes.convert(layer, "states")
    assert live.peak({"states": 1}) == 4 * (10**12 + 10**6)
    with shapes:
        for _ in range(2):
            y: Tensor = layer(torch.empty(10**7, 10**6, dtype=torch.float32))
            y.sum().backward()
            assert layer.weight.grad is not None
            assert layer.weight.grad.shape == (10**6, 10**6)
            layer.zero_grad()


def test_equal_numbers_of_other_types_are_other_operations() -> None:
    with ShapesOnly(LiveBytes()):
        x = torch.zeros(3, dtype=torch.int64)
        assert [(x * 1).dtype, (x * 1.0).dtype] == [torch.int64, torch.float32]
