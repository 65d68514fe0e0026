"""A training step at full size: its time, speed and memory for each way to checkpoint, eager and compiled.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch

from benchmarks.clock import mark, seconds_between
from benchmarks.gpu.device_memory import fits, peaks, restart_peaks
from benchmarks.gpu.part import Day
from benchmarks.random_step import RandomTraining, random_model
from benchmarks.train_step import MODES, measured_peak
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.kernels import compile_each_block
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.monitoring.flop_count import counted_flops, peak_flops

NUM_WARM_UP = 2


def measure(day: Day) -> None:
    """Record one row for each mode and number of frames."""
    _measure(day, is_compiled=False)


def measure_compiled(day: Day) -> None:
    """Record the same with compiled blocks."""
    _measure(day, is_compiled=True)


def _measure(day: Day, *, is_compiled: bool) -> None:
    device, config = torch.device(day.device), Scal3RConfig(**day.size.network)
    # Counted before anything is compiled: under fake tensors torch.compile gives a function up for good.
    flops = {
        frames: counted_flops(config, (1, 1, frames, 3, *day.size.image_hw))
        for frames in day.size.step_frames
    }
    of_gemm = measured_peak(device, torch.bfloat16)
    training = RandomTraining(random_model(config, device), "bf16")
    if is_compiled:
        compile_each_block(training.engine.bare_model, day.size.compile_backend)
    _measure_modes(day, training, flops, of_gemm, is_compiled=is_compiled)


def _measure_modes(
    day: Day, training: RandomTraining, flops: dict[int, int], of_gemm: float, *, is_compiled: bool
) -> None:
    device, config = training.process.device, training.engine.bare_model.config
    for place, num_frames in enumerate(day.size.step_frames):
        size = step_size(day, num_frames)
        for mode in MODES[1:] if place > 0 else MODES:  # the larger chunk does not fit without checkpointing
            training.engine.bare_model.set_activation_checkpointing(mode)
            row = {"frames": num_frames, "checkpointing": mode, "compile": "blocks" if is_compiled else "no"}
            seconds: list[float] = []
            work = partial(run_steps, training, size, day.size.num_rounds, seconds)
            if not fits(work, training.forget_step, device):
                day.record(**row, note="out of memory")
                continue
            day.record(
                **row,
                **speed(config, size, seconds, flops[num_frames], of_gemm, peak_flops(device)),
                **peaks(device),
            )


def step_size(day: Day, num_frames: int) -> StepSize:
    """Return the size of a step on one chunk."""
    height, width = day.size.image_hw
    return StepSize(num_sequences=1, num_chunks=1, num_frames=num_frames, height=height, width=width)


def run_steps(training: RandomTraining, size: StepSize, num_rounds: int, seconds: list[float]) -> None:
    """Make steps; put into `seconds` the wall time of the first and then the device's of each after the warm-up."""
    device = training.process.device
    restart_peaks(device)
    batch = training.batch(size)
    began = time.perf_counter()
    for number in range(NUM_WARM_UP + num_rounds):
        begin = mark(device)
        training.step(size, batch)
        taken = seconds_between(begin, mark(device))
        if number == 0:
            seconds.append(time.perf_counter() - began)
        elif number >= NUM_WARM_UP:
            seconds.append(taken)


def speed(
    config: Scal3RConfig,
    size: StepSize,
    seconds: list[float],
    flops: float,
    of_gemm: float,
    of_sheet: float | None,
) -> dict[str, float]:
    """Return the numbers of a row; shares of peak count no operation that is repeated in backward."""
    first, *timed = seconds
    median = statistics.median(timed)
    patches = (size.height // config.patch_size) * (size.width // config.patch_size)
    num_tokens = size.num_frames * (patches + config.num_special_tokens)
    row = {
        "step_ms": round(1000 * median, 1),
        "tokens_per_s": round(num_tokens / median),
        "tflops": round(flops / median / 1e12, 3),
        "of_gemm_percent": round(100 * flops / median / of_gemm, 1),
        "first_step_s": round(first, 1),
    }
    return row if of_sheet is None else row | {"mfu_percent": round(100 * flops / median / of_sheet, 1)}
