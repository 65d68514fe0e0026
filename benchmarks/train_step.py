"""One training step: time and its shares, tokens/s, share of the device's peak, peak memory, side by side.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step                       a small network on the CPU
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.train_step  also the memories' sums
    python -m benchmarks.train_step --full                                  the full size on one CUDA device, bf16

A step is forward, a loss on every output, backward, clipping and AdamW, on random images and weights; no data is
read. Compared, taking turns: checkpointing modes; rotary tables kept or made at every call; the fast-weight gradient
through torch.compile (--compile); on CUDA TensorFloat-32 for float32 products; with several ranks sums under way or
waited for. `--full` also looks for the most frames of 518x392 that fit, per checkpointing mode.

Share of peak (MFU) = FLOPs of monitoring/flop_count.py / (seconds x peak). The FLOPs are those of one forward and
backward without recomputation. The peak is `--peak-tflops`, else what training/monitoring/flop_count.py knows of the
device, else that of one large matrix product measured here in the precision of the run.
"""

from __future__ import annotations

import argparse
import io
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import mark, median, ratio, seconds_between, take_turns
from benchmarks.findings import Findings, add_json_option
from benchmarks.step_flops import closed_form_flops
from scal3r_train.model import fast_weight
from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.rope import RotaryTable, TokenPositions, rotary_table
from scal3r_train.parallel.collectives import Group, sum_over_group
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.process import joined_processes
from scal3r_train.training.monitoring.flop_count import counted_flops, peak_flops

MODES: tuple[CheckpointingMode, ...] = ("none", "blocks", "segments")
PHASES = ("forward", "memory sync", "backward", "optimizer")
SMALL = Scal3RConfig(
    image_size=56,
    hidden_size=128,
    num_layers=8,
    num_heads=4,
    encoder_layers=4,
    encoder_heads=4,
    tap_layers=[1, 3, 5, 7],
    memory_layers=[4, 7],
    camera_heads=4,
    camera_layers=2,
    dpt_features=32,
    dpt_channels=[32, 32, 64, 64],
    dpt_refine_channels=16,
)
SMALL_IMAGES = (1, 2, 6, 3, 56, 84)
FULL_IMAGES = (1, 1, 8, 3, 392, 518)


@dataclass
class Bench:
    """A model in training and what its steps take."""

    model: Scal3RModel
    optimizer: torch.optim.Optimizer
    images: Tensor
    precision: torch.dtype
    group: Group
    waits: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time what is left of waiting for the memories' sums."""
        begin = mark(self.images.device)
        yield
        self.waits.append((begin, mark(self.images.device)))

    def step(self, mode: CheckpointingMode = "none", *, waits_at_once: bool = False) -> dict[str, float]:
        """Make one step and return the seconds of its phases; on CUDA also the peak memory in GiB."""
        device = self.images.device
        self.model.set_activation_checkpointing(mode)
        connect_memories(self.model, self.group, self.waiting)
        if waits_at_once and self.group is not None:
            for unit in self.model.aggregator.memory_units.values():
                unit.sum_over_context = partial(wait_at_once, group=self.group)
        self.waits.clear()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = mark(device)
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            output = self.model(self.images)
        loss = torch.stack([value.float().square().mean() for value in output.values()]).sum()
        forward_end, waits_of_forward = mark(device), len(self.waits)
        loss.backward()
        backward_end = mark(device)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = mark(device)
        waited = [seconds_between(*wait) for wait in self.waits]
        in_forward = sum(waited[:waits_of_forward])
        seconds = {
            "forward": seconds_between(begin, forward_end) - in_forward,
            "memory sync": sum(waited),
            "backward": seconds_between(forward_end, backward_end) - (sum(waited) - in_forward),
            "optimizer": seconds_between(backward_end, end),
            "step": seconds_between(begin, end),
        }
        if device.type == "cuda":
            seconds["memory"] = torch.cuda.max_memory_allocated() / 2**30
        return seconds


def wait_at_once(gradient: Tensor, group: Group) -> Callable[[], Tensor]:
    """The reference implementation of a sum under way."""
    total = sum_over_group(gradient, group)
    return lambda: total


def build(config: Scal3RConfig, shape: tuple[int, ...], device: torch.device, group: Group) -> Bench:
    """Return a model with random weights, the same on every rank, and random images."""
    torch.manual_seed(0)
    with device:
        model = Scal3RModel(config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Bench(model, optimizer, torch.rand(shape, device=device), precision, group)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put another function in a place for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def table_made_again(
    self: TokenPositions, head_dim: int, frequency: float, dtype: torch.dtype
) -> RotaryTable | None:
    """What `TokenPositions.table` would be without keeping its tables."""
    return None if frequency == 0 else rotary_table(self.positions, head_dim, frequency, dtype)


def measured_peak(device: torch.device, precision: torch.dtype) -> float:
    """Return the FLOP/s of one large matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=precision)
    times = []
    for _ in range(6):
        begin = mark(device)
        a @ a
        times.append(seconds_between(begin, mark(device)))
    return 2 * size**3 / min(times[1:])


def compare(
    title: str, variants: dict[str, Callable[[], dict[str, float]]], num_rounds: int, findings: Findings
) -> None:
    """Print the ratio of each variant's step to that of the first, which is what a run does; find the inverse."""
    results = take_turns(variants, num_rounds)
    first, *others = results
    print(f"{title}: {first} {1000 * median(results[first], 'step'):.1f} ms")
    for name in others:
        middle, low, high = ratio(results[name], results[first], "step")
        print(f"  {name} / {first}: {middle:.3f} ({low:.3f} to {high:.3f})")
        findings.time[f"{title}: {first} / {name}"] = 1 / middle


def print_modes(bench: Bench, config: Scal3RConfig, peak: float, num_rounds: int, findings: Findings) -> None:
    """Print time, shares, speed and memory of a step in each checkpointing mode."""
    shape = tuple(bench.images.shape)
    flops, closed = counted_flops(config, shape), closed_form_flops(config, shape)
    patches = (shape[4] // config.patch_size) * (shape[5] // config.patch_size)
    num_tokens = shape[0] * shape[1] * shape[2] * (patches + config.num_special_tokens)
    print(
        f"{num_tokens:,} tokens a step; {flops / 1e12:.4f} TFLOP counted, {closed / 1e12:.4f} of blocks and memories "
        f"by the closed form; peak {peak / 1e12:.3f} TFLOP/s"
    )
    results = take_turns({mode: partial(bench.step, mode) for mode in MODES}, num_rounds)
    for mode, runs in results.items():
        seconds = median(runs, "step")
        shares = ", ".join(f"{phase} {100 * median(runs, phase) / seconds:.1f} %" for phase in PHASES)
        memory = f"; peak memory {median(runs, 'memory'):.2f} GiB" if "memory" in runs[0] else ""
        middle, low, high = ratio(runs, results["none"], "step")
        if mode != "none":
            findings.time[f"checkpointing: {mode} / none"] = middle
        print(
            f"{mode:8s} {1000 * seconds:8.1f} ms ({middle:.3f} of none, {low:.3f} to {high:.3f}); {shares}; "
            f"{num_tokens / seconds:,.0f} tokens/s; {100 * flops / seconds / peak:.1f} % of peak{memory}"
        )


def most_frames(bench: Bench, mode: CheckpointingMode) -> tuple[int, dict[str, float]]:
    """Return the largest chunk, in steps of 4 frames, whose training step fits, and what the step took."""
    fitting, taken = 0, {}
    for num_frames in range(4, 400, 4):
        shape = (1, 1, num_frames, *bench.images.shape[3:])
        try:
            taken = replace(bench, images=torch.rand(shape, device=bench.images.device)).step(mode)
        except torch.OutOfMemoryError:
            break
        fitting = num_frames
    bench.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return fitting, taken


def main() -> None:
    """Measure and print, from the first rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the full-size network; needs CUDA")
    parser.add_argument("--frames", type=int, help="frames per chunk")
    parser.add_argument("--chunks", type=int, help="chunks per rank")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak by its data sheet")
    add_json_option(parser)
    asked, findings = parser.parse_args(), Findings()
    with joined_processes() as process:
        if asked.full and process.device.type != "cuda":
            parser.error("--full needs a CUDA device")
        config = Scal3RConfig() if asked.full else SMALL
        shape = list(FULL_IMAGES if asked.full else SMALL_IMAGES)
        shape[1], shape[2] = asked.chunks or shape[1], asked.frames or shape[2]
        group = ContextGroups()[range(process.world_size)]
        bench = build(config, tuple(shape), process.device, group)
        with nullcontext() if process.is_main else redirect_stdout(io.StringIO()):
            print(
                f"{sum(p.numel() for p in bench.model.parameters()):,} parameters, images {shape}, ", end=""
            )
            print(
                f"{process.world_size} ranks, {process.device}, {bench.precision}, torch {torch.__version__}"
            )
            known = 1e12 * asked.peak_tflops if asked.peak_tflops else peak_flops(process.device)
            peak = known or measured_peak(process.device, bench.precision)
            print_modes(bench, config, peak, asked.rounds, findings)
            compare_parts(bench, asked.rounds, findings, with_compile=asked.compile)
            if process.is_main:
                findings.save(asked.json)
            if asked.full and process.world_size == 1:
                for mode in MODES:
                    fitting, taken = most_frames(bench, mode)
                    print(f"{mode}: {fitting} frames fit in one chunk; {taken}")
            if process.device.type == "cpu":
                resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print(f"peak resident memory of the process over all of this: {resident:.2f} GiB")


def compare_parts(bench: Bench, num_rounds: int, findings: Findings, *, with_compile: bool) -> None:
    """Print what single choices cost or bring."""

    def with_rebuilt_tables() -> dict[str, float]:
        with replaced(TokenPositions, "table", table_made_again):
            return bench.step()

    compare(
        "rotary tables", {"kept": bench.step, "made at every call": with_rebuilt_tables}, num_rounds, findings
    )
    if bench.group is not None:
        waiting = partial(bench.step, waits_at_once=True)
        compare("memory sums", {"under way": bench.step, "waited for": waiting}, num_rounds, findings)
    if bench.images.device.type == "cuda":

        def with_tensor_float() -> dict[str, float]:
            with replaced(torch.backends.cuda.matmul, "allow_tf32", True):
                return bench.step()

        compare(
            "float32 products",
            {"float32": bench.step, "TensorFloat-32": with_tensor_float},
            num_rounds,
            findings,
        )
    if with_compile:
        compiled = torch.compile(fast_weight.ascent_gradient)

        def with_compiled() -> dict[str, float]:
            with replaced(fast_weight, "ascent_gradient", compiled):
                return bench.step()

        compare(
            "fast-weight gradient", {"eager": bench.step, "compiled": with_compiled}, num_rounds, findings
        )


if __name__ == "__main__":
    main()
