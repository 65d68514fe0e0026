"""A picture of the paths of an evaluation, seen from above: the truth, and methods after their alignment to it.

    python -m benchmarks.evaluated_paths runs/eval/circuits paths.png scal3r opencv_odometry

The first argument is where `scal3r eval` wrote; then the picture and the methods to draw. One panel a sequence, with
each method's ATE in percent of the path; a method that failed on a sequence has no line in its panel.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from scal3r_train.metrics.trajectory_io import read_trajectory

mpl.use("Agg")


def ground_plane(world_from_cam: np.ndarray) -> np.ndarray:
    """Return the two axes [2, 3] along which the path of cameras [S, 3, 4] extends most, as seen from above them."""
    positions, up = world_from_cam[:, :, 3], -world_from_cam[:, :, 1].mean(0)
    axes = np.linalg.svd(positions - positions.mean(0), full_matrices=False)[2][:2]
    return axes if np.cross(*axes) @ up > 0 else axes * [[1], [-1]]


def main(arguments: list[str]) -> None:
    """Draw and save."""
    from matplotlib import pyplot as plt  # after the backend is chosen

    if len(arguments) < 3:
        raise SystemExit("usage: python -m benchmarks.evaluated_paths EVAL_OUTPUT PICTURE METHOD ...")
    folder, picture, methods = Path(arguments[0]), Path(arguments[1]), arguments[2:]
    truths = sorted((folder / "truth").glob("*.tum"))
    if not truths:
        raise SystemExit(f"{folder} holds no truth/*.tum; name the output_dir of an evaluation")
    unknown = [method for method in methods if not (folder / method).is_dir()]
    if unknown:
        raise SystemExit(f"{folder} has no method {', '.join(unknown)}")
    figure, axes = plt.subplots(1, len(truths), figsize=(3.6 * len(truths), 3.9), squeeze=False)
    for axis, path in zip(axes[0], truths, strict=True):
        cameras = read_trajectory(path).world_from_cam.numpy()
        true, plane = cameras[:, :, 3], ground_plane(cameras)
        lines = [("truth", true, "black", 2.5)]
        for number, method in enumerate(methods):
            place = folder / method / path.stem
            if not (place / "aligned.tum").is_file():
                print(f"{method} has no path for {path.stem}", file=sys.stderr)
                continue
            scores = json.loads((place / "scores.json").read_text(encoding="utf-8"))
            name = f"{method} {scores['metrics']['ate_percent']:.2f} %"
            lines.append(
                (
                    name,
                    read_trajectory(place / "aligned.tum").world_from_cam[:, :, 3].numpy(),
                    f"C{number}",
                    1.2,
                )
            )
        for name, positions, colour, width in lines:
            x, y = ((positions - true.mean(0)) @ plane.T).T
            axis.plot(x, y, color=colour, linewidth=width, label=name, alpha=0.4 if name == "truth" else 1)
        axis.set_title(f"{path.stem.split('__')[0]}, {len(true):,} frames", fontsize=10)
        axis.set_aspect("equal", "datalim")
        axis.set_axis_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
