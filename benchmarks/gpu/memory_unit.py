"""The Adaptive Memory Units: how near to a plain matrix product they come, and which share of a step they are.

Shapes: N patch tokens, D head dimension, M inner dimension.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from benchmarks.clock import mark, seconds_between
from benchmarks.gpu.device_memory import restart_peaks
from benchmarks.gpu.part import Day
from benchmarks.gpu.precision import PRECISIONS, float32_products
from benchmarks.gpu.training_steps import run_steps, step_size
from benchmarks.random_step import RandomTraining, random_model
from benchmarks.train_step import replaced
from scal3r_train.model import fast_weight, precision
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.fast_weight import FastWeights, TokenRates
from scal3r_train.parallel import torch_engine

WRITE_PRODUCTS, READ_PRODUCTS = 6, 3


def measure_utilisation(day: Day) -> None:
    """Record write and read against the same products alone, for a training chunk and one of a reconstruction.

    Everything is float32 in and out under float32 and TensorFloat-32, and bfloat16 under bfloat16.
    """
    config, device = Scal3RConfig(**day.size.network), torch.device(day.device)
    height, width = (side // config.patch_size for side in day.size.image_hw)
    for num_frames in (day.size.step_frames[0], day.size.chunk):
        for kind in PRECISIONS:
            dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
            with float32_products(kind):
                _record_precision(day, config, num_frames, num_frames * height * width, kind, dtype, device)
            restart_peaks(device)


def _record_precision(
    day: Day, config: Scal3RConfig, num_frames: int, num_tokens: int, precision: str, dtype: torch.dtype,
    device: torch.device,
) -> None:  # fmt: skip
    dim = config.hidden_size // config.memory_heads
    inner, heads = config.memory_expansion * dim, config.memory_heads

    def random(*shape: int) -> Tensor:
        return torch.randn(heads, *shape, device=device, dtype=dtype) / dim**0.5

    weights = FastWeights(random(dim, inner), random(inner, dim), random(dim, inner))
    keys, values = random(num_tokens, dim), random(num_tokens, dim)
    rates = TokenRates(*torch.full((3, heads, num_tokens), 0.01, device=device, dtype=dtype))
    hidden = random(num_tokens, inner)
    up = timed(lambda: keys @ weights.w0, day.size.num_rounds, device)
    across = timed(lambda: keys.mT @ hidden, day.size.num_rounds, device)
    down = timed(lambda: hidden @ weights.w1, day.size.num_rounds, device)
    product = 2 * heads * num_tokens * dim * inner
    parts = {
        "write": (
            WRITE_PRODUCTS,
            3 * up + 3 * across,
            lambda: fast_weight.ascent_gradient(weights, keys, values, rates),
        ),
        "read": (READ_PRODUCTS, 2 * up + down, lambda: fast_weight.forward(weights, keys)),
    }
    for name, (num_products, alone, work) in parts.items():
        seconds = timed(work, day.size.num_rounds, device)
        day.record(
            part=name,
            frames=num_frames,
            precision=precision,
            ms=round(1000 * seconds, 3),
            tflops=round(num_products * product / seconds / 1e12, 3),
            gemm_tflops=round(num_products * product / alone / 1e12, 3),
            of_gemm_percent=round(100 * alone / seconds, 1),
        )


@torch.no_grad()
def timed(work: Callable[[], object], num_rounds: int, device: torch.device) -> float:
    """Return the median of the device's seconds after two calls to warm up."""
    seconds = []
    for number in range(2 + 2 * num_rounds):
        begin = mark(device)
        work()
        taken = max(seconds_between(begin, mark(device)), 1e-9)  # a CPU's clock may not move
        if number >= 2:
            seconds.append(taken)
    return statistics.median(seconds)


@contextmanager
def strict_float32() -> Iterator[None]:
    """Let training use IEEE float32 wherever it would use TensorFloat-32."""

    def strict(device: torch.device, *, reduced: bool) -> AbstractContextManager[None]:
        return original(device, reduced=False)

    original = precision.float32_products
    with replaced(precision, "float32_products", strict), replaced(torch_engine, "float32_products", strict):
        yield


def measure_share(day: Day) -> None:
    """Record a training step with and without memories: the difference is theirs, their optimizer step included."""
    device = torch.device(day.device)
    size = step_size(day, day.size.step_frames[0])
    contexts = {"TensorFloat-32, as trained": nullcontext, "float32": strict_float32}
    times: dict[tuple[str, bool], float] = {}
    for has_memories in (True, False):
        network = day.size.network if has_memories else {**day.size.network, "memory_layers": []}
        training = RandomTraining(random_model(Scal3RConfig(**network), device), "bf16")
        training.engine.bare_model.set_activation_checkpointing("blocks")
        for name, context in contexts.items():
            seconds: list[float] = []
            with context():
                run_steps(training, size, day.size.num_rounds, seconds)
            times[name, has_memories] = statistics.median(seconds[1:])
        del training
        restart_peaks(device)
    for name in contexts:
        whole, rest = times[name, True], times[name, False]
        day.record(
            precision=name,
            frames=size.num_frames,
            step_ms=round(1000 * whole, 1),
            without_ms=round(1000 * rest, 1),
            share_percent=round(100 * (1 - rest / whole), 1),
        )
