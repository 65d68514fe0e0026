"""What scal3r-small does on the samples that its own renderer did not make: real videos, and a circuit drawn by others.

    python -m benchmarks.transfer ../shared/data runs/transfer [CHECKPOINT]

Each sample is indexed by its own adapter and evaluated with `scal3r eval` beside the baselines, with the known camera
and with an unknown one: KITTI 04, the 7-Scenes kitchen, TUM fr2_desk, fox, game_loop. Printed is a table for each; the
whole reports lie in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.posed_samples import SAMPLES
from scal3r_data_tools import index
from scal3r_eval.pipeline import evaluate
from scal3r_eval.recipe import EvalRecipe
from scal3r_eval.report.tables import summary_table
from scal3r_eval.report.text import plain
from scal3r_train.config import validate_mapping

METHODS = {
    "known camera": {"kind": "scal3r", "overrides": ["input.intrinsics=from_index"]},
    "unknown camera": {"kind": "scal3r"},
    "static": {"kind": "baseline", "baseline": "static"},
    "straight line": {"kind": "baseline", "baseline": "straight_line"},
    "constant turn": {"kind": "baseline", "baseline": "constant_turn"},
}


def recipe_of(index_path: Path, name: str, output: Path, checkpoint: Path) -> EvalRecipe:
    """Return the evaluation of one sample."""
    mapping = {
        "task": "eval",
        "output_dir": str(output),
        "checkpoint": str(checkpoint),
        "benchmark": {"name": name, "index": str(index_path)},
        "protocol": {
            "align": "sim3",
            "reconstruction": "recipes/reconstruct/small.yaml",
            "image_hw": [84, 144],
            "chunk_size": 12,
            "overlap": 4,
        },
        "methods": {key.replace(" ", "_"): value for key, value in METHODS.items()},
    }
    return validate_mapping(EvalRecipe, mapping, name)


def main(arguments: list[str]) -> None:
    """Evaluate every sample below a folder and print the table."""
    data, output = Path(arguments[0]).resolve(), Path(arguments[1])
    checkpoint = Path(arguments[2] if len(arguments) > 2 else "assets/scal3r-small")
    for name, sample in SAMPLES.items():
        folder = output / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        assert index.main(sample.adapter, data / sample.own_source, folder / "index.parquet", []) == 0
        results = evaluate(recipe_of(folder / "index.parquet", name, folder / "eval", checkpoint))
        assert results is not None
        print(f"{name}\n{plain(summary_table(results))}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
