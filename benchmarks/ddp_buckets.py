"""Why DDP's buckets are settled before the first step (parallel/torch_engine.py): resumed against uninterrupted runs.

torchrun --nproc-per-node 3 -m benchmarks.ddp_buckets      (three ranks: a sum of two numbers has no order)

A small network is trained by DDP for 6 steps, and again from its own state after step 3 under a new DDP wrapper. Prints
the largest difference of the weights at the end, with buckets settled and as DDP does it by itself.
"""

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scal3r_train.parallel.process import joined_processes

NUM_STEPS, RESUME_AT = 6, 3
WIDTHS = (64, 300, 200, 500, 64)


def network() -> nn.Module:
    """Return layers whose gradients come in another order than they are registered."""
    torch.manual_seed(0)
    shapes = list(zip(WIDTHS, WIDTHS[1:], strict=False))
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in shapes[::-1])
    return _Backwards(layers)


class _Backwards(nn.Module):
    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in reversed(self.layers):
            x = torch.tanh(layer(x))
        return x


def train(model: nn.Module, steps: range, *, settle: bool) -> dict[str, torch.Tensor]:
    """Return the weights after the given steps under a fresh DDP wrapper."""
    wrapped = DistributedDataParallel(model, bucket_cap_mb=1)
    if settle:
        wrapped(torch.zeros(1, WIDTHS[0])).sum().backward()
        wrapped.zero_grad(set_to_none=True)
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * step + dist.get_rank())
        loss = wrapped(torch.randn(8, WIDTHS[0], generator=generator)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
        wrapped.zero_grad(set_to_none=True)
    return copy.deepcopy(model.state_dict())


def difference(*, settle: bool) -> float:
    """Return the largest difference between a resumed and an uninterrupted run."""
    whole = train(network(), range(NUM_STEPS), settle=settle)
    first, second = network(), network()
    second.load_state_dict(train(first, range(RESUME_AT), settle=settle))
    resumed = train(second, range(RESUME_AT, NUM_STEPS), settle=settle)
    return max(float((whole[name] - resumed[name]).abs().max()) for name in whole)


def main() -> None:
    """Print both differences."""
    with joined_processes() as process:
        for settle in (False, True):
            value = difference(settle=settle)
            if process.is_main:
                print(f"buckets settled: {settle!s:5}  largest difference of weights: {value:.2e}")


if __name__ == "__main__":
    main()
