"""Fine-tune a model on your own sequences with known cameras and depth.

    scal3r data index DATASET SRC data/mine.parquet          # and some that training does not see
    python examples/finetune.py data/mine.parquet data/held_out.parquet runs/mine optim.num_steps=500

The recipe `demo` goes on from scal3r-tiny on a CPU; for the released model take one of `scal3r recipes`, as
`finetune/amu_only_24gb`, with model.checkpoint=checkpoints/scal3r.
"""

import json
import sys
from pathlib import Path

from scal3r_train import Scal3RModel
from scal3r_train.train import main as train


def main(index: str, held_out: str, out: str, *overrides: str, recipe: str = "demo") -> Scal3RModel:
    """Train, print what validation says before and after, and return the model."""
    places = {"data.sources.0.index": index, "validation.sources.0.index": held_out, "output_dir": out}
    train([recipe, *(f"{key}={json.dumps(place)}" for key, place in places.items()), *overrides])
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    validations = [line for line in map(json.loads, lines) if "val/rotation_deg" in line]
    for name in sorted(key for key in validations[-1] if key.startswith("val/")):
        print(f"{name}: {validations[0].get(name)} -> {validations[-1][name]}")
    return Scal3RModel.from_pretrained(Path(out) / "model").eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
