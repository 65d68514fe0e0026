"""Alignment of two chunks that share 6 million pixels, against the reference's six full passes in float32.

    python -m benchmarks.alignment [--noise 0.01] [--seeds 5]

Points at depths about 10, first without noise, then with independent Gaussian noise of every depth in both chunks; the
error is the distance between where a point is put and where it belongs. The reference implementation follows the
release (docs/numerics.md#seams): medians, threshold, confidence weights, a closed-form fit and five Huber rounds, all
pixels. "points alone" is `alignment.evidence: points`; the default weighs the cameras of the 30 shared frames in, which
here turn by --camera-turn degrees and shift by --camera-shift of the step against each other.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.findings import Findings, add_json_option
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_tangent import exp
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import align_chunks
from scal3r_train.inference.alignment.settings import AlignmentSettings

FRAMES, HEIGHT, WIDTH = 30, 400, 500
HUBER_DELTA, ROUNDS = 0.1, 5


def pair(
    noise: float, seed: int, camera_turn_deg: float, camera_shift: float
) -> tuple[ChunkGeometry, ChunkGeometry, Sim3]:
    """Two chunks of the same 30 frames and the true earlier_from_later; the camera goes one unit a frame."""
    generator = torch.Generator().manual_seed(seed)
    shape = (FRAMES, HEIGHT, WIDTH)
    depth = 10 + torch.randn(shape, generator=generator, dtype=torch.float64)
    x = torch.linspace(-0.7, 0.7, WIDTH, dtype=torch.float64).expand(shape)
    y = torch.linspace(-0.5, 0.5, HEIGHT, dtype=torch.float64)[:, None].expand(shape)
    truth = exp(torch.tensor([[3.0, -1, 2, 0.3, 0.6, -0.2, 0.4]], dtype=torch.float64)).unstack()[0]
    valid = torch.ones(shape, dtype=torch.bool)
    chunks = []
    for earlier_from_this in (truth, Sim3.identity()):
        said = depth * (1 + noise * torch.randn(shape, generator=generator, dtype=torch.float64))
        points = torch.stack([x * said, y * said, said], dim=-1)
        points[..., 0] += torch.arange(FRAMES)[:, None, None]
        cameras = torch.eye(4, dtype=torch.float64)[:3].repeat(FRAMES, 1, 1)
        cameras[:, 0, 3] = torch.arange(FRAMES)
        shaken = torch.randn(FRAMES, 7, generator=generator, dtype=torch.float64) / math.sqrt(3)
        shaken[:, :3] *= camera_shift
        shaken[:, 3:6] *= math.radians(camera_turn_deg)
        shaken[:, 6] = 0
        moved = exp(shaken)
        cameras = compose_extrinsics(
            cameras, torch.cat([moved.rotation, moved.translation[..., None]], dim=2)
        )
        chunks.append(
            ChunkGeometry(
                range(FRAMES),
                earlier_from_this.apply(points),
                1 + torch.rand(shape, generator=generator),
                valid,
                invert_extrinsics(earlier_from_this.apply_to_world_from_cam(cameras)),
            )
        )
    return chunks[0], chunks[1], truth


def reference_fit(
    earlier: ChunkGeometry, later: ChunkGeometry, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(s, R, t) by the release's rules (docs/numerics.md#robust-fit), which computes in float32."""
    target, source = (chunk.world_points.reshape(-1, 3).to(dtype) for chunk in (earlier, later))
    a, b = earlier.confidence.flatten().to(dtype), later.confidence.flatten().to(dtype)
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
    sign = torch.tensor([1, 1, torch.det(v.T @ u.T).sign().item()]).to(v)
    rotation = (v.T * sign) @ u.T
    return scale, rotation, target_mean - scale * rotation @ source_mean


def main() -> None:
    """Let all take turns and print what they need and how wrong they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, default=0.01, help="of every depth [share]")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the noise")
    parser.add_argument("--camera-turn", type=float, default=0.1, help="rotation noise of a frame [deg]")
    parser.add_argument("--camera-shift", type=float, default=0.01, help="centre noise of a frame [steps]")
    add_json_option(parser)
    asked = parser.parse_args()
    print(f"{FRAMES * HEIGHT * WIDTH:,} points; medians of {asked.seeds} draws")
    ratio = {}
    for noise, seeds in ((0.0, 1), (asked.noise, asked.seeds)):
        ratio[noise] = compare(noise, seeds, asked.camera_turn, asked.camera_shift)
    Findings(time={"ours / reference": ratio[asked.noise]}).save(asked.json)


def compare(noise: float, seeds: int, camera_turn_deg: float, camera_shift: float) -> float:
    """Print a table and return the default's processor time over the reference's."""
    probe_step = (slice(None, None, 7), slice(None, None, 13), slice(None, None, 11))
    variants: dict[str, Callable[[ChunkGeometry, ChunkGeometry], Sim3]] = {
        "reference, float32, 6 passes": reference,
        "the same in float64": lambda a, b: reference(a, b, torch.float64),
        "points alone, drawn ones": lambda a, b: ours(a, b, evidence="points", all_pixels=False),
        "points alone": lambda a, b: ours(a, b, evidence="points"),
        "default, with cameras": ours,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    errors: dict[str, list[float]] = {name: [] for name in variants}
    for seed in range(seeds):
        earlier, later, truth = pair(noise, seed, camera_turn_deg, camera_shift)
        probe = later.world_points[probe_step].reshape(-1, 3)
        for name, run in variants.items():
            begin = time.process_time()
            sim3 = run(earlier, later)
            times[name].append(time.process_time() - begin)
            error = (sim3.apply(probe) - truth.apply(probe)).norm(dim=1).max() / 10
            errors[name].append(error.item())
    print(f"noise of depth {noise:.1%}")
    for name in variants:
        seconds, error = statistics.median(times[name]), statistics.median(errors[name])
        print(
            f"  {name:<30} {seconds:8.3f} s cpu   worst error / depth {error:.2e}   (worst {max(errors[name]):.2e})"
        )
    slow, fast = (
        statistics.median(times[name]) for name in ("reference, float32, 6 passes", "default, with cameras")
    )
    print(f"  {fast:.3f} s against {slow:.3f} s, ratio 1/{slow / fast:.0f}")
    return fast / slow


def reference(earlier: ChunkGeometry, later: ChunkGeometry, dtype: torch.dtype = torch.float32) -> Sim3:
    """The release's seam."""
    scale, rotation, translation = reference_fit(earlier, later, dtype)
    return Sim3(scale.double(), rotation.double(), translation.double())


def ours(earlier: ChunkGeometry, later: ChunkGeometry, **settings: Any) -> Sim3:
    """Our seam."""
    return align_chunks(earlier, later, AlignmentSettings(**settings)).earlier_from_later


if __name__ == "__main__":
    main()
