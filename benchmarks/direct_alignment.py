"""What neighbouring pictures tell of the camera's motion when depth and field of view are known, or nearly.

Run: OMP_NUM_THREADS=1 python -m benchmarks.direct_alignment INDEX [--windows 6] [--image-hw 84 144]

No network: the alignment of the `direct` encoder (geometry/direct_alignment.py) with its blurs and rounds, all cells
trusted alike, on windows of 8 frames of an index with true depth. Printed are the turn's error in degrees and the error
of the translation relative to its length, mean and median over pairs of neighbours, beside `no turn`: with true depth;
with depth wrong by a smooth random factor (sigma of its log 0.4); with a focal length that is a quarter too long; and
read from maps that are averaged and subsampled level by level, as pyramids of features are. The index's unit should be
that of `camera_height=0.05`, whose usual step the alignment begins with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import roma
import torch
import torch.nn.functional as F
from torch import Tensor

from scal3r_train.data.dataset import plan_data
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.sources import DataSettings
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.direct_alignment import AlignmentProblem, align
from scal3r_train.model.aggregator import normalize_images
from scal3r_train.model.motion_encoder import BLURS, INITIAL_STEP, ROUNDS, gaussian_blur

STRIDE = 3
DEPTH_NOISE, NOISE_GRID = 0.4, (4, 6)
FOCAL_FACTOR = 1.25
POOLED = (12, 6, 3)  # pixels of a cell, coarse to fine, of the pyramid
Pairs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # current, previous, depth, focal, true prev_from_cur


def pairs_of(batch: SequenceBatch) -> Pairs:
    """Return every frame and the one before it, of all chunks."""
    images = normalize_images(batch.float_images())
    current, previous, depth = (
        x.flatten(0, 2).float() for x in (images[:, :, 1:], images[:, :, :-1], batch.depth[:, :, 1:])
    )
    focal = batch.intrinsics[:, :, 1:, 0, 0].flatten().float()
    truth = compose_extrinsics(batch.extrinsics[:, :, :-1], invert_extrinsics(batch.extrinsics[:, :, 1:]))
    return current, previous, depth, focal, truth.flatten(0, 2).float()


def start(focal: Tensor) -> Tensor:
    """Return the motion that the encoder begins with."""
    motion = torch.eye(3, 4).repeat(len(focal), 1, 1)
    motion[:, 2, 3] = INITIAL_STEP
    return motion


def inverse(depth: Tensor) -> Tensor:
    """Return 1 / depth, 0 where there is none."""
    return torch.where(depth > 0, 1 / depth.clamp(min=1e-6), torch.zeros_like(depth))


def blurred(current: Tensor, previous: Tensor, depth: Tensor, focal: Tensor) -> Tensor:
    """Align as the encoder does: blurred maps at full resolution, read at the middles of cells."""
    middles = (..., slice(STRIDE // 2, None, STRIDE), slice(STRIDE // 2, None, STRIDE))
    cells = depth[middles]
    motion = start(focal)
    for sigma, num_rounds in zip(BLURS, ROUNDS, strict=True):
        maps, before = (gaussian_blur(x, sigma) for x in (current, previous))
        trust = (cells > 0).float()
        motion = align(
            AlignmentProblem(maps[middles], before, inverse(cells), trust, focal), motion, num_rounds
        )
    return motion


def pooled(current: Tensor, previous: Tensor, depth: Tensor, focal: Tensor) -> Tensor:
    """Align maps that are averaged over cells and as coarse as these."""
    motion = start(focal)
    for stride, num_rounds in zip(POOLED, ROUNDS, strict=True):
        maps, before = (F.avg_pool2d(x, stride) for x in (current, previous))
        share = F.avg_pool2d((depth > 0).float()[:, None], stride)[:, 0]
        rho = F.avg_pool2d(inverse(depth)[:, None], stride)[:, 0] / share.clamp(min=0.01)
        problem = AlignmentProblem(maps, before, rho, (share > 0.5).float(), focal / stride)
        motion = align(problem, motion, num_rounds)
    return motion


def with_noise(depth: Tensor) -> Tensor:
    """Return depth times a smooth random factor."""
    grid = torch.randn(len(depth), 1, *NOISE_GRID, generator=torch.Generator().manual_seed(0))
    return depth * (DEPTH_NOISE * F.interpolate(grid, depth.shape[-2:], mode="bilinear")[:, 0]).exp()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--image-hw", type=int, nargs=2, default=(84, 144))
    arguments = parser.parse_args()
    height, width = arguments.image_hw
    curriculum = {
        "sequences_per_group": 4,
        "chunks_per_rank": {1: 1.0},
        "chunk_size": {8: 1.0},
        "overlap": {0: 1.0},
        "resolution": [{"height": height, "width": width}],
        "reverse_probability": 0.0,
    }
    data = DataSettings.model_validate({"sources": [{"index": arguments.index}], "deny_list": "off"})
    plan = plan_data(data, CurriculumSettings.model_validate(curriculum), 1, 0, 1)
    methods: dict[str, Callable[[Pairs], Tensor]] = {
        "no turn, usual step": lambda pairs: start(pairs[3]),
        "true depth": lambda pairs: blurred(*pairs[:4]),
        "depth off by 40 %": lambda pairs: blurred(*pairs[:2], with_noise(pairs[2]), pairs[3]),
        "focal length off by 25 %": lambda pairs: blurred(*pairs[:3], pairs[3] * FOCAL_FACTOR),
        "true depth, subsampled maps": lambda pairs: pooled(*pairs[:4]),
    }
    windows = [pairs_of(plan.dataset[number]) for number in range(arguments.windows)]
    print(f"{sum(len(pairs[0]) for pairs in windows)} pairs of {arguments.index}")
    print(
        f"{'':30}{'turn, degrees':>20}{'translation, %':>20}\n{'':30}{'mean, median':>20}{'mean, median':>20}"
    )
    for name, method in methods.items():
        found, truth = torch.cat([method(pairs) for pairs in windows]), torch.cat([p[4] for p in windows])
        turn = torch.rad2deg(roma.rotmat_geodesic_distance(found[..., :3], truth[..., :3]))
        off = (found[..., 3] - truth[..., 3]).norm(dim=-1) / truth[..., 3].norm(dim=-1).clamp(min=1e-9)
        numbers = (
            f"{turn.mean():.3f}, {turn.median():.3f}",
            f"{100 * off.mean():.1f}, {100 * off.median():.1f}",
        )
        print(f"{name:30}" + "".join(f"{number:>20}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
