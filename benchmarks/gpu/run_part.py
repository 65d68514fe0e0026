"""The process of one part: python -m benchmarks.gpu.run_part MODULE:FUNCTION FILE SIZE DEVICE GOLDENS ENDS_AT"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.gpu.part import Day
from benchmarks.gpu.sizes import SIZES

NO_DEVICE = 3  # exit code


def main(function: str, file: str, size: str, device: str, goldens: str, ends_at: str) -> None:
    """Call the part's function; an exception ends the process with its traceback in the log."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.stdout.write("torch finds no CUDA device\n")
            sys.exit(NO_DEVICE)
    module, _, name = function.partition(":")
    day = Day(SIZES[size], device, Path(goldens), float(ends_at), Path(file))
    vars(importlib.import_module(module))[name](day)


if __name__ == "__main__":
    main(*sys.argv[1:])
