"""How far the paths of an evaluation drift from the truth, by the length of the way.

    python -m benchmarks.odometry_drift EVAL_OUTPUT METHOD [--step 8]

EVAL_OUTPUT is where `scal3r eval` wrote, METHOD one of its methods without closed loops. For ways of 1, 4, 16, 64 and
256 steps (chunks of 12 frames that share 4 follow one another by 8) it prints the rms of a component of the rotation's
error in degrees and of the translation's error in percent of a step, then both over the root of the number of steps,
the first for each frame, the second as a share: what `pose_graph.noise.odometry_turn_std_deg` and
`odometry_distance_std` are if steps err independently. Where these grow with the way, steps err alike. On longer ways
the translation's error is mostly that of the rotations before it, which the pose graph adds by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.metrics.trajectory_io import read_trajectory

STEPS = (1, 4, 16, 64, 256)


def relative(world_from_cam: torch.Tensor, frames: int) -> Sim3Batch:
    """Return the pose of each camera [S, 3, 4] seen from the one so many frames before it."""
    ones = torch.ones(len(world_from_cam), dtype=torch.float64)
    poses = Sim3Batch(ones, world_from_cam[:, :, :3].double(), world_from_cam[:, :, 3].double())
    first = torch.arange(len(world_from_cam) - frames)
    return poses.take(first).inverse() @ poses.take(first + frames)


def main() -> None:
    """Print one line a sequence and way."""
    parser = argparse.ArgumentParser(description="Drift of an evaluation's paths by the length of the way.")
    parser.add_argument("output", type=Path)
    parser.add_argument("method")
    parser.add_argument("--step", type=int, default=8, help="frames")
    arguments = parser.parse_args()
    print(f"{'sequence':24} {'steps':>5} {'deg':>7} {'% step':>8} {'deg/frame/root':>14} {'share/root':>10}")
    for path in sorted((arguments.output / "truth").glob("*.tum")):
        truth = read_trajectory(path)
        placed = read_trajectory(arguments.output / arguments.method / path.stem / "aligned.tum")
        if not np.array_equal(truth.timestamps, placed.timestamps):
            print(f"{path.stem:24} left out: truth and {arguments.method} have other frames")
            continue
        true, found = truth.world_from_cam, placed.world_from_cam
        if len(true) <= arguments.step:
            continue
        distance = relative(true, arguments.step).translation.norm(dim=1).median()
        for steps in STEPS:
            if steps * arguments.step >= len(true):
                break
            ways = [relative(each, steps * arguments.step) for each in (true, found)]
            error = sim3_tangent.log(ways[0].inverse() @ ways[1]).square().mean(dim=0)
            turn, shift = torch.rad2deg(error[3:6].mean().sqrt()), error[:3].mean().sqrt() / distance
            print(
                f"{path.stem:24} {steps:5d} {turn:7.3f} {100 * shift:8.1f} "
                f"{turn / steps**0.5 / arguments.step:14.3f} {shift / steps**0.5:10.3f}"
            )


if __name__ == "__main__":
    main()
