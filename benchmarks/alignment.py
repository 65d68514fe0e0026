"""Alignment of two chunks that share 6 million pixels, against the reference's six full passes in float32.

    python -m benchmarks.alignment

Noise-free points at depths about 10; the error is the distance between where a point is put and where it belongs.
The reference implementation follows the release (docs/numerics.md#seams): medians, threshold, confidence weights, a
closed-form fit and five Huber rounds, all pixels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.findings import Findings, add_json_option
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_tangent import exp
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import align_chunks
from scal3r_train.inference.alignment.settings import AlignmentSettings

FRAMES, HEIGHT, WIDTH = 30, 400, 500
HUBER_DELTA, ROUNDS = 0.1, 5


def pair() -> tuple[ChunkGeometry, ChunkGeometry, Sim3]:
    """Two chunks of the same 30 frames and the true earlier_from_later."""
    generator = torch.Generator().manual_seed(0)
    shape = (FRAMES, HEIGHT, WIDTH)
    depth = 10 + torch.randn(shape, generator=generator, dtype=torch.float64)
    x = torch.linspace(-0.7, 0.7, WIDTH, dtype=torch.float64).expand(shape)
    y = torch.linspace(-0.5, 0.5, HEIGHT, dtype=torch.float64)[:, None].expand(shape)
    later = torch.stack([x * depth, y * depth, depth], dim=-1)
    later[..., 0] += torch.arange(FRAMES)[:, None, None]
    truth = exp(torch.tensor([[3.0, -1, 2, 0.3, 0.6, -0.2, 0.4]], dtype=torch.float64)).unstack()[0]
    valid, cameras = torch.ones(shape, dtype=torch.bool), torch.eye(4)[:3].expand(FRAMES, 3, 4)
    chunks = [
        ChunkGeometry(range(FRAMES), points, 1 + torch.rand(shape, generator=generator), valid, cameras)
        for points in (truth.apply(later), later)
    ]
    return chunks[0], chunks[1], truth


def reference_fit(earlier: ChunkGeometry, later: ChunkGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """(s, R, t) as the release has it, in float32 (docs/numerics.md#robust-fit)."""
    target, source = (chunk.world_points.reshape(-1, 3).float() for chunk in (earlier, later))
    a, b = earlier.confidence.flatten(), later.confidence.flatten()
    threshold = 0.1 * torch.minimum(a.median(), b.median())
    keep = (a > threshold) & (b > threshold) & earlier.valid.flatten() & later.valid.flatten()
    source, target, weights = source[keep], target[keep], (a * b).sqrt()[keep]
    fit = weighted_fit(source, target, weights)
    for _ in range(ROUNDS):
        scale, rotation, translation = fit
        residual = (target - (scale * source @ rotation.T + translation)).norm(dim=1)
        fit = weighted_fit(source, target, weights * (HUBER_DELTA / residual.clamp(min=1e-12)).clamp(max=1))
    return fit


def weighted_fit(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """docs/numerics.md#closed-form, in the points' own type."""
    weights = (weights / (weights.sum() + 1e-12))[:, None]
    source_mean, target_mean = (weights * source).sum(0), (weights * target).sum(0)
    x, y = source - source_mean, target - target_mean
    scale = ((weights * y**2).sum() / (weights * x**2).sum()).sqrt()
    u, _, v = torch.linalg.svd((weights * scale * x).T @ y)
    sign = torch.tensor([1, 1, torch.det(v.T @ u.T).sign().item()])
    rotation = (v.T * sign) @ u.T
    return scale, rotation, target_mean - scale * rotation @ source_mean


def timed(run: Callable[[], Sim3]) -> tuple[Sim3, float]:
    """Return what was found and the seconds of processor time."""
    begin = time.process_time()
    result = run()
    return result, time.process_time() - begin


def main() -> None:
    """Let both take turns and print what they need and how wrong they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_json_option(parser)
    asked = parser.parse_args()
    earlier, later, truth = pair()
    settings = AlignmentSettings()
    probe = later.world_points[::7, ::13, ::11].reshape(-1, 3)

    def slow() -> Sim3:
        scale, rotation, translation = reference_fit(earlier, later)
        return Sim3(scale.double(), rotation.double(), translation.double())

    variants = {
        "reference, float32, 6 passes": slow,
        "ours": lambda: align_chunks(earlier, later, settings).earlier_from_later,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(3):
        for name, run in variants.items():
            sim3, seconds = timed(run)
            times[name].append(seconds)
            error = (sim3.apply(probe) - truth.apply(probe)).norm(dim=1).max() / 10
            print(f"{name:<30} {seconds:8.3f} s cpu   worst error / depth {error:.2e}")
    slow_s, fast_s = (statistics.median(values) for values in times.values())
    print(
        f"{FRAMES * HEIGHT * WIDTH:,} points: {fast_s:.3f} s against {slow_s:.3f} s, ratio 1/{slow_s / fast_s:.0f}"
    )
    Findings(time={"ours / reference": fast_s / slow_s}).save(asked.json)


if __name__ == "__main__":
    main()
