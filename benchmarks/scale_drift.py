"""What it is worth to estimate chunks' scales together: game_loop's true path with scales of chunks and seams that err.

python -m benchmarks.scale_drift [--folder ../shared/data/game_loop] [--draws 5]

Chunks are true but for their scale; seams join them truly but for their scale, which errs about a point ahead of the
camera. What seams state of their error is right, but for the rows that say otherwise.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scal3r_data_tools.adapters import game_loop
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_scales import ChunkScales, chain_with_scales
from scal3r_train.inference.alignment.seam import Seam, SeamQuality, chain
from scal3r_train.inference.alignment.seam_covariance import seam_covariances
from scal3r_train.inference.alignment.settings import AlignmentSettings, SeamNoiseSettings
from scal3r_train.inference.chunking import chunk_ranges, provider_chunk_of_frame
from scal3r_train.metrics.trajectory import score_trajectory

CHUNK_SIZE, OVERLAP, AHEAD_M, SPREAD_M = 60, 30, 10.0, 8.0
NOISE = SeamNoiseSettings(points_per_measurement=10_000, min_relative_std=1e-4)


@dataclass(frozen=True)
class Case:
    """How log-scales err: spreads of chunks and seams, the latter's bias, and what seams state of theirs."""

    name: str
    chunk_std: float
    seam_std: float
    bias: float = 0.0
    stated: float | None = None
    drifts: bool = False


CASES = (
    Case("chunks of one scale, seams 5 %", 0.0, 0.05),
    Case("the same, seams state 2 %", 0.0, 0.05, stated=0.02),
    Case("the same, seams 5 % and all 3 % too long", 0.0, 0.05, bias=0.03),
    Case("chunks 2 %, seams 5 %", 0.02, 0.05),
    Case("chunks 5 %, seams 5 %", 0.05, 0.05),
    Case("chunks 5 %, seams 2 %", 0.05, 0.02),
    Case("chunks 40 %, seams 1 %", 0.4, 0.01),
    Case("chunks 40 %, exact seams (state 0.01 %)", 0.4, 0.0, stated=1e-4),
    Case("chunks wander by 2 % a step, seams 0.2 %", 0.02, 0.002, drifts=True),
)


def main() -> None:
    """Print the table of docs/alignment.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/game_loop"))
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    (record,) = game_loop.index(arguments.folder)
    assert record.cam_from_world is not None
    truth = invert_extrinsics(torch.from_numpy(record.cam_from_world).double())
    print("| scales | free Sim(3) | rigid | together | s_c | seams |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        rows = np.array([scores(truth, case, seed) for seed in range(arguments.draws)])
        free, rigid, ours = rows[:, :3].mean(0)
        spread, seams = np.median(rows[:, 3:], axis=0)
        print(
            f"| {case.name} | {free:.3f} | {rigid:.3f} | {ours:.3f} | {100 * spread:.1f} % | {100 * seams:.2g} % |"
        )


def scores(truth: Tensor, case: Case, seed: int) -> tuple[float, float, float, float, float]:
    """Return ATE in percent of free, rigid and our seams, and the spreads of chunks and seams that were found."""
    random = np.random.default_rng(seed)
    ranges = chunk_ranges(len(truth), CHUNK_SIZE, OVERLAP)
    logs = case.chunk_std * random.normal(size=len(ranges))
    logs = np.cumsum(logs) if case.drifts else logs
    world_from_chunk = [
        Sim3.from_rigid(truth[frames.start]) @ scaling(float(np.exp(log)), torch.zeros(3).double())
        for frames, log in zip(ranges, logs, strict=True)
    ]
    stated = case.seam_std if case.stated is None else case.stated
    seams = []
    for earlier, later in zip(world_from_chunk, world_from_chunk[1:], strict=False):
        middle = earlier.inverse().apply(
            later.apply(torch.tensor([0.0, 0.0, AHEAD_M]).double() / later.scale)
        )
        error = float(np.exp(case.bias + case.seam_std * random.normal()))
        joined = scaling(error, middle) @ (earlier.inverse() @ later)
        quality = SeamQuality(
            "points",
            trusted=True,
            scale=float(joined.scale),
            num_points=NOISE.points_per_measurement,
            residual_median=stated,
            spread=SPREAD_M / float(earlier.scale),
            centre=tuple(middle.tolist()),
        )
        seams.append(Seam(joined, quality))
    together = ChunkScales.of(seams, AlignmentSettings(), NOISE)
    assert together is not None
    rigid = chain_with_scales(seams, seam_covariances(seams, NOISE), np.zeros(len(ranges)))
    placed = (chain(seams), rigid, together.first_from_chunk)
    ates = [ate(truth, ranges, world_from_chunk, found) for found in placed]
    found = together.as_dict(together.first_from_chunk)
    return ates[0], ates[1], ates[2], found["chunk_std"], found["seam_std"]


def scaling(factor: float, centre: Tensor) -> Sim3:
    """Return the similarity that only scales, about a point [3]."""
    return Sim3(torch.tensor(factor).double(), torch.eye(3).double(), (1 - factor) * centre)


def ate(truth: Tensor, ranges: list[range], world_from_chunk: list[Sim3], found: list[Sim3]) -> float:
    """Return the ATE in percent of the path when chunks lie where they were found."""
    rows = []
    for frame, k in enumerate(provider_chunk_of_frame(len(truth), ranges, OVERLAP)):
        moved = found[k] @ world_from_chunk[k].inverse()
        rows.append(moved.apply_to_world_from_cam(truth[frame]))
    percent = score_trajectory(torch.stack(rows), truth).ate_percent
    assert percent is not None
    return percent


if __name__ == "__main__":
    main()
