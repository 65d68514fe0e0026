"""The parts of the GPU day at tiny sizes on the CPU, in a process without the packages that a lent machine lacks.

Arguments: the file for the rows of each part, the folder of goldens, names of parts.
"""

import sys

# As if not installed. datasets, pydantic, roma and ruamel.yaml are carried there (docs/performance.md).
ABSENT = (
    "deepspeed wandb av moderngl viser trimesh h5py OpenEXR pycolmap evo gtsam tensorboard pytest hypothesis"
)
sys.modules.update(dict.fromkeys(ABSENT.split()))

import importlib  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.gpu.part import Day, write_json  # noqa: E402
from benchmarks.gpu.parts import PARTS  # noqa: E402
from benchmarks.gpu.sizes import SIZES  # noqa: E402


def main(file: str, goldens: str, *names: str) -> None:
    rows = {}
    for part in PARTS:
        if part.name not in names:
            continue
        module, _, function = part.function.partition(":")
        day = Day(SIZES["tiny"], "cpu", Path(goldens), ends_at=time.time() + part.limit_s)
        vars(importlib.import_module(module))[function](day)
        rows[part.name] = day.rows
    write_json(Path(file), rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
