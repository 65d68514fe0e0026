"""The planner's memory against measurements: predicted bytes per rank, measured bytes, and the worst error.

One process: sizes x activation checkpointing x precision, on CPU (bytes of live tensors) or on CUDA (torch's peak):
    python -m benchmarks.plan_memory
Two ranks: what each engine holds between steps and at most in a step:
    torchrun --nproc-per-node 2 -m benchmarks.plan_memory
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from benchmarks.findings import Findings, add_json_option
from benchmarks.measured_step import Measured, measured_step
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel import zero_defaults
from scal3r_train.parallel.collectives import maximum_over_world
from scal3r_train.parallel.process import joined_processes
from scal3r_train.planning.choices import ENGINES, MODES, Choice, Costs
from scal3r_train.planning.step_bytes import Numerics, Precision
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.optim import OptimSettings

LOSSES, OPTIM = ObjectiveSettings(), OptimSettings()
# DeepSpeed's buckets would be larger than these models.
BUCKET_NUMEL = 500_000
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
SMALL = {
    "image_size": 56,
    "hidden_size": 96,
    "num_layers": 6,
    "num_heads": 4,
    "encoder_layers": 2,
    "encoder_heads": 4,
    "tap_layers": [0, 1, 3, 5],
    "memory_layers": [2, 5],
    "memory_expansion": 2,
    "camera_heads": 4,
    "camera_layers": 1,
    "camera_iterations": 2,
    "dpt_features": 16,
    "dpt_channels": [16, 16, 16, 16],
    "dpt_refine_channels": 8,
}
NETWORKS = {
    "conv encoder": SMALL | {"patch_encoder": "conv"},
    "DINOv2 encoder": SMALL,
    "deep and narrow": SMALL
    | {"hidden_size": 64, "num_layers": 12, "memory_layers": [5, 8, 11], "tap_layers": [1, 5, 8, 11]},
}
SIZES = {"short": StepSize(1, 1, 4, 56, 84), "two chunks of two": StepSize(2, 2, 4, 56, 56)}
ON_CUDA = {"short": StepSize(1, 1, 8, 224, 308), "two chunks of two": StepSize(2, 2, 8, 154, 154)}


@dataclass(frozen=True)
class Row:
    """One comparison, in bytes."""

    name: str
    predicted: Measured
    measured: Measured

    @property
    def error(self) -> float:
        """Return the relative error of the peak."""
        return self.predicted.peak / self.measured.peak - 1


def compare(
    name: str, network: dict[str, object], size: StepSize, choice: Choice, world_size: int, numerics: Numerics
) -> Row:
    """Predict and measure one case; every rank calls this."""
    config = Scal3RConfig(**network)
    costs = Costs(config, LOSSES, OPTIM, world_size, numerics)
    predicted = Measured(costs.states(choice, size).held, costs.peak(choice, size))
    torch.manual_seed(0)
    model = Scal3RModel(config).train()
    model.set_activation_checkpointing(choice.checkpointing)
    measured = measured_step(model, size, choice.precision, LOSSES, choice.engine)
    peaks = maximum_over_world(torch.tensor([measured.held, measured.peak], dtype=torch.float64))
    return Row(name, predicted, Measured(*(int(peak) for peak in peaks)))


def on_one_process(numerics: Numerics) -> Iterator[Row]:
    """Compare networks, sizes, checkpointing and precision."""
    sizes = ON_CUDA if numerics == "cuda" else SIZES
    for network, size, mode, precision in product(NETWORKS, sizes, MODES, PRECISIONS):
        choice = Choice("single", mode, precision)
        name = f"{network}, {size}, {mode}, {precision}"
        yield compare(name, NETWORKS[network], sizes[size], choice, 1, numerics)


def on_ranks(world_size: int, numerics: Numerics) -> Iterator[Row]:
    """Compare engines."""
    network = SMALL | {"hidden_size": 192, "encoder_layers": 4}
    for engine in ENGINES:
        if engine == "zero3_offload" and numerics == "cpu":
            continue  # host and device are the same memory
        choice = Choice(engine, "none", "fp32")
        yield compare(engine, network, SIZES["short"], choice, world_size, numerics)


def main() -> None:
    """Print a line per case as it is measured, and the worst error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_json_option(parser)
    asked, findings = parser.parse_args(), Findings()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    zero_defaults.BUCKET_NUMEL = BUCKET_NUMEL
    worst = 0.0
    with joined_processes() as process:
        numerics: Numerics = "cuda" if process.device.type == "cuda" else "cpu"
        ranks = process.world_size
        rows = on_one_process(numerics) if ranks == 1 else on_ranks(ranks, numerics)
        if process.is_main:
            device = torch.cuda.get_device_name() if numerics == "cuda" else "CPU"
            print(
                f"MB per rank on {device}, {ranks} processes: held between steps and peak, predicted and measured"
            )
        for row in rows:
            worst = max(worst, abs(row.error))
            findings.bytes[f"{row.name}: peak / held"] = row.measured.peak / row.measured.held
            findings.bytes[f"{row.name}: held / planned"] = row.measured.held / row.predicted.held
            if process.is_main:
                held = f"{row.predicted.held / 1e6:8.2f} {row.measured.held / 1e6:8.2f}"
                peak = f"{row.predicted.peak / 1e6:8.2f} {row.measured.peak / 1e6:8.2f}"
                print(f"{row.name:48s} held {held}   peak {peak}   {100 * row.error:+6.2f} %", flush=True)
        if process.is_main:
            print(f"worst error of a peak: {100 * worst:.2f} %")
            findings.save(asked.json)


if __name__ == "__main__":
    main()
