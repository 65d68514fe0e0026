"""How often host and device wait for each other and copy, on a CUDA device that a torch without CUDA pretends to have.

python -m benchmarks.device_traffic        # the table of docs/performance.md; needs a C++ compiler, no GPU
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fake_cuda.device import TRANSFERS, build, pretended_cuda
from tests.fake_cuda.worker import RUNS

SHOWN = {
    "step bf16 none": "training step",
    "logged step": "logged step of two micro-steps",
    "validation": "validation of one window",
    "reconstruction bf16": "reconstruction of 3 chunks, all heads",
    "streaming": "3 chunks of a stream, all heads",
}


def main() -> None:
    """Print the table."""
    sys.stdout.write("| | " + " | ".join(TRANSFERS) + " |\n| --- |" + " --- |" * len(TRANSFERS) + "\n")
    with pretended_cuda(build(Path("build/fake_cuda"))):
        for name, shown in SHOWN.items():
            counts = RUNS[name]().counts
            sys.stdout.write(f"| {shown} | " + " | ".join(str(counts[kind]) for kind in TRANSFERS) + " |\n")


if __name__ == "__main__":
    main()
