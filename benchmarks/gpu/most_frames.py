"""The most frames in one chunk whose training step fits into the device's memory, for each way to checkpoint.

A first guess comes from a line through the peaks of two small steps; then real steps are made until the largest size
that fits and the smallest that does not are neighbours. Every try starts with an allocator that keeps nothing, so
fragments of earlier sizes do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.device_memory import GIB, fits, peaks, restart_peaks
from benchmarks.gpu.part import Day
from benchmarks.gpu.training_steps import step_size
from benchmarks.random_step import RandomTraining, random_model
from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import Scal3RConfig

MODES: tuple[CheckpointingMode, ...] = ("none", "segments", "blocks")  # the longest steps last


def measure(day: Day) -> None:
    """Record one row for each mode."""
    device = torch.device(day.device)
    training = RandomTraining(random_model(Scal3RConfig(**day.size.network), device), "bf16")
    for mode in MODES:
        training.engine.bare_model.set_activation_checkpointing(mode)
        record_most(day, training, mode)


def record_most(day: Day, training: RandomTraining, mode: str) -> None:
    """Look for the most frames and record them with the memory of their step."""
    step, device = day.size.frame_step, training.process.device
    peak_of: dict[int, dict[str, float]] = {}

    def one_step(num_frames: int) -> None:
        restart_peaks(device)
        if device.type == "cpu" and num_frames > day.size.frames_of_cpu:
            raise torch.OutOfMemoryError("a rehearsal")
        size = step_size(day, num_frames)
        training.step(size, training.batch(size))
        peak_of[num_frames] = peaks(device)

    def does_fit(number: int) -> bool:
        fitting = fits(partial(one_step, number * step), training.forget_step, device)
        sys.stdout.write(f"{mode}: {number * step} frames {'fit' if fitting else 'do not fit'}\n")
        return fitting

    small = [number for number in (1, 2) if does_fit(number)]
    if len(small) < 2:
        day.record(checkpointing=mode, frames=step * len(small), too_many=step * (1 + len(small)))
        return
    low, high = most_that_fit(does_fit, guess(peak_of, step, device))
    day.record(checkpointing=mode, frames=low * step, too_many=high * step, **peak_of[low * step])


def guess(peak_of: dict[int, dict[str, float]], step: int, device: torch.device) -> int:
    """Return the number of steps of frames at which a line through two peaks reaches the device's memory."""
    if device.type != "cuda":
        return 2
    first, second = (peak_of[number * step]["peak_gib"] for number in (1, 2))
    free_gib = (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / GIB
    return max(2, int(1 + (free_gib - first) / max(second - first, 0.01)))


def most_that_fit(does_fit: Callable[[int], bool], first: int) -> tuple[int, int]:
    """Return the largest number that fits and the smallest that does not, which are neighbours.

    Goes outwards from `first` in doubling strides until it has one of each, then halves what lies between. 0 is taken
    to fit; a number must not fit where a smaller one does not.
    """
    low, high, stride, number = 0, 0, 1, first  # high is 0 while all that was tried fits
    while high == 0 or high - low > 1:
        if does_fit(number):
            low = number
        else:
            high = number
        if high == 0:
            number, stride = low + stride, 2 * stride
        elif low == 0:
            number, stride = max(high - stride, 1), 2 * stride
        else:
            number = (low + high) // 2
    return low, high
