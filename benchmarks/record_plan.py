"""Write tests/planning/recorded_peaks.json: what a rank holds at most in a full-size step, by frames and engine.

The released network, one chunk of frames of 294 x 518 a rank, bf16, blocks recomputed, 8 ranks; predicted, in GiB.

    python -m benchmarks.record_plan
"""

from __future__ import annotations

import json
from pathlib import Path

from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.planning.choices import ENGINES, GIB, Choice, Costs
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.optim import OptimSettings

FRAMES = (8, 16, 32, 84)
FILE = Path(__file__).parents[1] / "tests" / "planning" / "recorded_peaks.json"


def main() -> None:
    """Write the file and print its rows."""
    costs = Costs(Scal3RConfig(), ObjectiveSettings(), OptimSettings(), world_size=8)
    peaks = {}
    for engine in ENGINES:
        choice = Choice(engine, "blocks", "bf16")
        found = [costs.peak(choice, StepSize(1, 1, number, 294, 518)) / GIB for number in FRAMES]
        peaks[engine] = {str(number): round(peak, 2) for number, peak in zip(FRAMES, found, strict=True)}
        print(f"{engine:14s}", *(f"{peak:7.2f}" for peak in found))
    FILE.write_text(json.dumps({"peak_gib": peaks}, indent=2) + "\n")


if __name__ == "__main__":
    main()
