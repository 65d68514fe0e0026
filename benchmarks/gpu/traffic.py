"""What travels between host and device, whether kernels run beside it, and how often the host waits for the device.

All of it is read from the trace of torch's profiler.
"""

from __future__ import annotations

import json
import re
import tempfile
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.device_memory import restart_peaks
from benchmarks.gpu.part import Day, Row
from benchmarks.gpu.reconstruction import prepared, reconstruct
from benchmarks.gpu.training_steps import step_size
from benchmarks.random_step import RandomTraining, random_model
from scal3r_train.model.configuration_scal3r import Scal3RConfig

MIB = 2**20
NUM_STEPS = 2
# How the profiler names copies: "Memcpy HtoD (Pinned -> Device)".
COPY = re.compile(r"Memcpy (?P<direction>\w+) \((?P<source>\w+) -> (?P<target>\w+)\)")
DIRECTIONS = {"HtoD": "to device", "DtoH": "to host", "DtoD": "on device"}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
Interval = tuple[float, float]


def measure(day: Day) -> None:
    """Record the traffic of a training step and of a chunk of a reconstruction with its states on the host."""
    measure_training(day)
    restart_peaks(torch.device(day.device))
    measure_reconstruction(day)


def measure_training(day: Day) -> None:
    """Record a training step's."""
    device = torch.device(day.device)
    training = RandomTraining(random_model(Scal3RConfig(**day.size.network), device), "bf16")
    training.engine.bare_model.set_activation_checkpointing("blocks")
    size = step_size(day, day.size.step_frames[0])
    batch = training.batch(size)

    def steps() -> None:
        for _ in range(NUM_STEPS):
            training.step(size, batch)

    steps()
    for row in rows_of(traced(steps, day), NUM_STEPS):
        day.record(of="a training step", **row)


def measure_reconstruction(day: Day) -> None:
    """Record a chunk's."""
    model, pool = prepared(day)
    num_chunks = day.size.store_chunks

    def chunks() -> None:
        reconstruct(day, model, pool, num_chunks, "host", "bfloat16")

    for row in rows_of(traced(chunks, day), num_chunks):
        day.record(of="a chunk", **row)


def traced(work: Callable[[], None], day: Day) -> list[dict[str, Any]]:
    """Return the events of a trace of some work."""
    on_device = [ProfilerActivity.CUDA] if day.device == "cuda" else []
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU, *on_device]) as profiler:
            work()
            if on_device:
                torch.cuda.synchronize()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def rows_of(events: Iterable[dict[str, Any]], num_times: int) -> list[Row]:
    """Return rows of copies by direction and kind of host memory, then one of the host's waits and reads of numbers.

    Args:
        events: of a trace in Chrome's format, times in microseconds.
        num_times: how often the work was done; counts, bytes and times are those of one.
    """
    kernels: list[Interval] = []
    copies: dict[tuple[str, str], list[tuple[Interval, int]]] = defaultdict(list)
    waits: dict[str, int] = defaultdict(int)
    num_reads = 0
    for event in events:
        if event.get("ph") != "X":
            continue
        category, name = event.get("cat", ""), event["name"]
        interval = event["ts"], event["ts"] + event.get("dur", 0)
        if category == "kernel":
            kernels.append(interval)
        elif category == "gpu_memcpy" and (found := COPY.match(name)):
            sides = {found["source"], found["target"]} - {"Device"}
            kind = "".join(sorted(sides)).lower() or "device"
            copies[found["direction"], kind].append((interval, event.get("args", {}).get("bytes", 0)))
        elif category in ("cuda_runtime", "cuda_driver") and name in WAITS:
            waits[name] += 1
        elif category == "cpu_op" and name == "aten::_local_scalar_dense":
            num_reads += 1
    busy = merged(kernels)
    rows: list[Row] = []
    for (direction, kind), found_copies in sorted(copies.items()):
        total = sum(stop - start for (start, stop), _ in found_copies)
        beside = sum(overlap(interval, busy) for interval, _ in found_copies)
        rows.append(
            {
                "copies": DIRECTIONS.get(direction, direction),
                "memory": kind,
                "count": round(len(found_copies) / num_times, 1),
                "mib": round(sum(size for _, size in found_copies) / num_times / MIB, 3),
                "ms": round(total / num_times / 1000, 3),
                "beside_kernels_percent": round(100 * beside / total, 1) if total else 0.0,
            }
        )
    of_waits = {name: round(count / num_times, 1) for name, count in sorted(waits.items())}
    kernel_ms = round(sum(stop - start for start, stop in busy) / num_times / 1000, 3)
    reads = round(num_reads / num_times, 1)
    return [*rows, {"host_waits": describe(of_waits), "numbers_read": reads, "kernels_ms": kernel_ms}]


def describe(counts: dict[str, float]) -> str:
    """Return counts as words."""
    return ", ".join(f"{count:g} {name}" for name, count in counts.items()) or "none"


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as disjoint ones, ascending."""
    result: list[Interval] = []
    for start, stop in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], stop)
        else:
            result.append((start, stop))
    return result


def overlap(interval: Interval, disjoint: list[Interval]) -> float:
    """Return how much of an interval lies in disjoint ones."""
    start, stop = interval
    first = max(bisect(disjoint, (start, start)) - 1, 0)
    total = 0.0
    for begin, end in islice(disjoint, first, None):
        if begin >= stop:
            break
        total += max(0.0, min(stop, end) - max(start, begin))
    return total
