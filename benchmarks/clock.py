"""Time on the device that works: processor time of this process on a CPU, events in the stream on CUDA.

Other jobs on a shared machine stretch wall time, not processor time. Comparisons are made in one run, the variants
taking turns, so that whatever slows the machine slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Note the present moment; nothing waits."""
    if device.type != "cuda":
        return time.process_time()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Mark, end: Mark) -> float:
    """Return the time between two marks; waits for the device."""
    if isinstance(begin, torch.cuda.Event):
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000
    return end - begin


def take_turns(
    variants: Mapping[str, Callable[[], dict[str, float]]], num_rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Run all variants once to warm up and then `num_rounds` times in turn; return what each run said."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for number in range(num_rounds + 1):
        for name, variant in variants.items():
            result = variant()
            if number > 0:
                results[name].append(result)
    return results


def median(runs: list[dict[str, float]], key: str) -> float:
    """Return the median of one of the numbers that the runs of a variant gave."""
    return statistics.median(run[key] for run in runs)


def ratio(
    runs: list[dict[str, float]], others: list[dict[str, float]], key: str
) -> tuple[float, float, float]:
    """Return the median, smallest and largest ratio of runs to the others of the same round."""
    ratios = [run[key] / other[key] for run, other in zip(runs, others, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
