"""Write tests/planning/recorded_peaks.json: what a rank holds at most in a full-size step, by frames and engine.

The released network, one chunk of frames of 294 x 518 a rank, bf16, blocks recomputed, 8 ranks; predicted, in GiB. And
how many frames fit small devices with recipes/finetune/lora_24gb.yaml, by image size and chunks.

    python -m benchmarks.record_plan
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.planning.choices import ENGINES, GIB, Choice, Costs, budget_of
from scal3r_train.planning.step_size import StepSize
from scal3r_train.recipe import load_training_recipe
from scal3r_train.training.optim import OptimSettings

FRAMES = (8, 16, 32, 84)
FILE = Path(__file__).parents[1] / "tests" / "planning" / "recorded_peaks.json"
SMALL_DEVICES_GB = (8, 12, 24)


class LoraStep(NamedTuple):
    """Images and chunks of a step; how many frames fit is what is asked."""

    height: int
    width: int
    num_chunks: int

    @property
    def name(self) -> str:
        """Return what the file calls it."""
        return f"{self.height} x {self.width}, {self.num_chunks} chunks"


LORA_STEPS = LoraStep(294, 518, 4), LoraStep(168, 518, 2)


def main() -> None:
    """Write the file and print its rows."""
    costs = Costs(Scal3RConfig(), ObjectiveSettings(), OptimSettings(), world_size=8)
    peaks = {}
    for engine in ENGINES:
        choice = Choice(engine, "blocks", "bf16")
        found = [costs.peak(choice, StepSize(1, 1, number, 294, 518)) / GIB for number in FRAMES]
        peaks[engine] = {str(number): round(peak, 2) for number, peak in zip(FRAMES, found, strict=True)}
        print(f"{engine:14s}", *(f"{peak:7.2f}" for peak in found))
    costs, choice = lora_costs()
    frames: dict[str, dict[str, dict[str, int]]] = {}
    for variant, other in lora_variants(choice).items():
        frames[variant] = {}
        for step in LORA_STEPS:
            size = StepSize(1, step.num_chunks, 4, step.height, step.width)
            found = [costs.frames_that_fit(other, size, budget_of(gb)) for gb in SMALL_DEVICES_GB]
            frames[variant][step.name] = dict(zip(map(str, SMALL_DEVICES_GB), found, strict=True))
            print(f"{variant:20s} {step.name:20s}", *(f"{number:7d}" for number in found))
    FILE.write_text(json.dumps({"peak_gib": peaks, "lora_frames": frames}, indent=2) + "\n")


def lora_variants(choice: Choice) -> dict[str, Choice]:
    """Return the recipe's settings and two that need less."""
    assert choice.lora is not None
    without_encoder = choice.lora.model_copy(update={"encoder": False})
    return {
        "all blocks": choice,
        "encoder: false": replace(choice, lora=without_encoder),
        "lora: null": replace(choice, lora=None),
    }


def lora_costs() -> tuple[Costs, Choice]:
    """Return what the recipe for adapters costs on one GPU, and its settings."""
    recipe = load_training_recipe("finetune/lora_24gb")
    model = recipe.model
    choice = Choice(
        "single",
        model.activation_checkpointing,
        recipe.parallel.precision,
        model.train,
        model.frozen_dtype,
        model.lora,
    )
    return Costs(Scal3RConfig(), recipe.losses, recipe.optim, world_size=1), choice


if __name__ == "__main__":
    main()
