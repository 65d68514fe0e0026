"""How long a training is held up by a save: waiting until it is on disk, and with the writing in the background.

Run: OMP_NUM_THREADS=1 python -m benchmarks.save [--rounds 3] [--folder DISK]

A network with random weights is trained on random images by one process; no data is read. A round makes the same
number of steps without a save, with one that is waited for at once (what a synchronous save does), and with one that is
written while the steps go on; then it waits for the end of it outside of the clock. Wall time. `held up` is the time
between two steps, `longer` what all steps and the save took more than the steps without a save: in the background also
what the writing takes from the training, on a machine whose processors are all busy. /proc/self/status gives the host
memory that the first save keeps.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.clock import median, ratio, take_turns
from benchmarks.measured_step import random_batch, separate_plan
from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import folder_sha256
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.context_groups import ContextGroups
from scal3r_train.parallel.engine import Engine
from scal3r_train.parallel.process import current_process, device_name
from scal3r_train.parallel.settings import ParallelSettings
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.checkpointing.checkpoint import CheckpointSettings
from scal3r_train.training.checkpointing.saver import CheckpointSaver
from scal3r_train.training.monitoring.step_profiler import StepProfiler
from scal3r_train.training.optim import OptimSettings, build_optimizer
from scal3r_train.training.progress import Progress
from scal3r_train.training.step import MicroStep, train_step

NETWORK = Scal3RConfig(
    image_size=28,
    hidden_size=384,
    num_layers=6,
    num_heads=6,
    patch_encoder="conv",
    tap_layers=[1, 2, 4, 5],
    memory_layers=[3, 5],
    camera_heads=4,
    camera_layers=2,
    dpt_features=32,
    dpt_channels=[32, 32, 64, 64],
    dpt_refine_channels=16,
)
SIZE = StepSize(num_sequences=1, num_chunks=2, num_frames=4, height=28, width=42)
MB = 1e6


@dataclass
class Bench:
    """A training and what saves it."""

    engine: Engine
    saver: CheckpointSaver
    step: Callable[[], None]
    num_steps: int = 1
    num_saves: int = 0
    held: list[float] = field(default_factory=list)

    def between_steps(self, action: Callable[[], None]) -> None:
        """Do what the trainer does between two steps, and note how long it took."""
        begin = time.perf_counter()
        action()
        self.held.append(time.perf_counter() - begin)

    def start(self) -> None:
        """Begin a save."""
        self.num_saves += 1
        self.saver.start(Progress(step=self.num_saves))

    def start_and_wait(self) -> None:
        """Begin a save and wait until it is on disk."""
        self.start()
        self.saver.finish()

    def go_on(self) -> None:
        """What the trainer does when no rank is busy."""
        if not self.saver.is_busy:
            self.saver.go_on()

    def steps(self, save: Callable[[], None] | None) -> dict[str, float]:
        """Make the steps, with a save after the first one; return the seconds."""
        self.held.clear()
        begin = time.perf_counter()
        for number in range(self.num_steps):
            self.step()
            self.between_steps(self.go_on)
            if save is not None and number == 0:
                self.between_steps(save)
        result = {"all": time.perf_counter() - begin, "held up": sum(self.held)}
        self.saver.finish()
        return result


def build(folder: Path) -> Bench:
    """Return a training whose checkpoints go below a folder."""
    process = current_process()
    torch.manual_seed(0)
    model = Scal3RModel(NETWORK).train()
    engine = build_engine(ParallelSettings(engine="single"), process, 1)
    groups, losses = ContextGroups(engine.timeout), ObjectiveSettings()
    engine.prepare(model, lambda placed: build_optimizer(placed, OptimSettings()), 1.0)
    watch = StepProfiler(engine)
    micro_steps = [MicroStep(separate_plan(SIZE, process.world_size), random_batch(SIZE))]

    def step() -> None:
        with watch.step(is_logged=False):
            train_step(engine, groups, micro_steps, losses, watch)

    def describe(weights: Path, _step: int) -> None:
        (weights / "README.md").write_text(
            folder_sha256(weights)
        )  # as a card does: all weights are read again

    settings = CheckpointSettings(keep_last=1)
    return Bench(engine, CheckpointSaver(folder, settings, engine, None, "", describe), step)


def resident_bytes() -> int:
    """Return the resident set of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        measure(build(folder), arguments.rounds)
    finally:
        shutil.rmtree(folder)


def measure(bench: Bench, num_rounds: int) -> None:
    """Print what a save costs."""
    for _ in range(2):
        bench.step()
    before = resident_bytes()
    bench.saver.start(Progress())
    kept = resident_bytes() - before
    begin = time.perf_counter()
    bench.saver.finish()
    written = time.perf_counter() - begin
    begin = time.perf_counter()
    bench.step()
    step = time.perf_counter() - begin
    bench.num_steps = 2 + int(2 * written / step)  # the writing is slower beside the steps
    weights = sum(
        parameter.numel() * parameter.element_size() for parameter in bench.engine.bare_model.parameters()
    )
    state = sum(
        tensor.numel() * tensor.element_size()
        for shard in bench.engine.shards()
        for tensor in (shard.weight, *shard.moments.values())
    )
    print(f"{device_name(bench.engine.process.device)}")
    print(
        f"weights {weights / MB:.0f} MB, with moments {state / MB:.0f} MB; the first save keeps {kept / MB:.0f} MB"
    )
    variants = {
        "no save": lambda: bench.steps(None),
        "waited for": lambda: bench.steps(bench.start_and_wait),
        "background": lambda: bench.steps(bench.start),
    }
    runs = take_turns(variants, num_rounds)
    print(f"{bench.num_steps} steps of {median(runs['no save'], 'all') / bench.num_steps:.2f} s\n")
    print(f"{'save':<12} {'held up':>9} {'longer':>9}")
    for name in ("waited for", "background"):
        for run, plain in zip(runs[name], runs["no save"], strict=True):
            run["longer"] = run["all"] - plain["all"]
        print(f"{name:<12} {median(runs[name], 'held up'):7.3f} s {median(runs[name], 'longer'):7.3f} s")
    middle, low, high = ratio(runs["waited for"], runs["background"], "held up")
    print(f"\nheld up, waited for / background: {middle:.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
