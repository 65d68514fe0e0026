"""What the machine is, and how fast products and copies are that all other numbers are compared with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable

import torch

from benchmarks.clock import mark, seconds_between
from benchmarks.gpu.part import Day
from benchmarks.gpu.precision import PRECISIONS, float32_products
from scal3r_train.parallel.process import device_name

GB = 1e9
COPY_BYTES = 2**30


def measure(day: Day) -> None:
    """Record names and versions, the speed of a square product in every precision, and of copies."""
    device = torch.device(day.device)
    packages = ("transformers", "accelerate")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    day.record(
        what="device",
        value=f"{device_name(device)}, {versions}, Python {platform.python_version()}, {os.cpu_count()} CPU cores",
    )
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        day.record(
            what="device memory, capability, CUDA, cuDNN",
            value=f"{properties.total_memory / 2**30:.1f} GiB, {properties.major}.{properties.minor}, "
            f"{torch.version.cuda}, {torch.backends.cudnn.version()}",
        )
    for precision in PRECISIONS:
        record_product(day, precision, device)
    if device.type == "cuda":
        record_copies(day, device)


def record_product(day: Day, precision: str, device: torch.device) -> None:
    """Record the speed of a square product of random matrices."""
    side = day.size.matrix
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with float32_products(precision):
        seconds = fastest(lambda: a @ b, device)
    day.record(
        what=f"product of {side} x {side}, {precision}", value=f"{2 * side**3 / seconds / 1e12:.3g} TFLOP/s"
    )


def record_copies(day: Day, device: torch.device) -> None:
    """Record the speed of copies on the device and from pinned and pageable memory of the host."""
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    sources = {
        "on the device (read and written)": (torch.empty_like(there), 2),
        "from pinned memory": (torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True), 1),
        "from pageable memory": (torch.ones(COPY_BYTES, dtype=torch.uint8), 1),
    }
    for name, (source, times) in sources.items():
        seconds = fastest(lambda source=source: there.copy_(source, non_blocking=True), device)
        day.record(what=f"copy {name}", value=f"{times * COPY_BYTES / seconds / GB:.3g} GB/s")


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Return the least seconds of five calls after one to warm up."""
    seconds = []
    for _ in range(6):
        begin = mark(device)
        work()
        seconds.append(max(seconds_between(begin, mark(device)), 1e-9))
    return min(seconds[1:])
