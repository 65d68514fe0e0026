"""Runs the authors' release on a folder of images and keeps what it found in a file; a script of its own.

    PYTHON benchmarks/release_driver.py CHECKOUT RESULT.npz FLAGS...

It imports the release alone, nothing of ours, so that it runs in the release's own Python environment. The release's
own main function does everything, from the flags; only its last step, which rounds to six decimals and needs an OpenCV
with OpenEXR, is another: float arrays `c2w` [S, 4, 4] (with the chunk's scale in the 3 x 3 block), `ixt` [S, 3, 3] and
`depth` [S, H W], not scaled, all as the release has them in memory.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np


def main(checkout: str, result: str, flags: list[str]) -> None:
    """Run `scal3r.pipelines.backend` of the checkout with these flags."""
    sys.path.insert(0, checkout)
    backend: Any = importlib.import_module("scal3r.pipelines.backend")

    def keep(processed: Any, *_: Any, **__: Any) -> None:
        output = processed.output
        np.savez(result, c2w=output.c2w, ixt=output.ixt, depth=output.dpt_map[..., 0])

    backend.save_results = keep
    sys.argv = ["backend", *flags]
    backend.main()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
