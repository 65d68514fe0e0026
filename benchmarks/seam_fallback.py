"""What one bad overlap costs a drive: game_loop with chunks made from its ground truth, points or cameras spoilt.

    python -m benchmarks.seam_fallback [--folder ../shared/data/game_loop] [--before] [--only TEXT]

Chunks are those of benchmarks/game_loop_truth.py. In the middle of the drive one overlap is spoilt in the later chunk
(sky: every overlap of every chunk) before the two are aligned; the trajectory is that of the unspoilt chunks. Columns:
error of the path without loops, and of the spoilt seam method, residuals of either fit, and the reason. `--before` adds
the error with `evidence: points` and the fit as it was before seams could fall back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import roma
import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics, unproject
from scal3r_train.geometry.sim3_fit import RobustFitSettings
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import Seam, SeamQuality, align_chunks, chain
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.metrics.trajectory import score_trajectory
from tests.inference.loop_closure.truth_chunks import Drive, Truth, drive, read_truth

Spoil = Callable[[ChunkGeometry, Truth], ChunkGeometry]
NOW = AlignmentSettings()
BEFORE = AlignmentSettings(
    evidence="points",
    depth_noise=False,
    all_pixels=False,
    max_points=100_000,
    robust=RobustFitSettings(settled_width=None, tolerance=1e-8),
)
HUBER = BEFORE.model_copy(update={"robust": RobustFitSettings(method="huber", settled_width=None)})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/game_loop"))
    parser.add_argument("--before", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    asked = parser.parse_args()
    whole = drive(read_truth(asked.folder))
    variants = [NOW, BEFORE, HUBER] if asked.before else [NOW]
    clean = [align_all(whole.chunks, settings) for settings in variants]
    middle = len(whole.seams) // 2
    print(f"{'spoilt overlap':<46} {'ATE of the path':>15}" + "  before   Huber" * asked.before)
    for name, spoil in ONE_OVERLAP.items():
        if asked.only not in name:
            continue
        spoilt = spoil(whole.chunks[middle + 1], whole.truth)
        found = []
        for seams, settings in zip(clean, variants, strict=True):
            seam = align_chunks(whole.chunks[middle], spoilt, settings)
            found.append([*seams[:middle], seam, *seams[middle + 1 :]])
        print_row(name, whole, found, middle)
    for depth in (20.0, 100.0, 500.0):
        name = f"sky at {depth:g} chunk units in every chunk"
        if asked.only not in name:
            continue
        chunks = [_with_sky(chunk, whole.truth, depth) for chunk in whole.chunks]
        found = [align_all(chunks, settings) for settings in variants]
        print_row(name, whole, found, middle)


def print_row(name: str, whole: Drive, found: list[list[Seam]], middle: int) -> None:
    """Print the errors of all variants and what the first says of the spoilt seam."""
    errors = [_ate(whole, seams) for seams in found]
    others = "".join(f" {error:>7.3f}" for error in errors[1:])
    print(f"{name:<46} {errors[0]:>13.4f} %{others}  {_said(found[0][middle].quality)}", flush=True)


def align_all(chunks: list[ChunkGeometry], settings: AlignmentSettings) -> list[Seam]:
    """Return the seams of all chunks."""
    return [align_chunks(one, two, settings) for one, two in zip(chunks[:-1], chunks[1:], strict=True)]


def _said(quality: SeamQuality) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    turn = "-" if quality.cameras_turn_deg is None else f"{quality.cameras_turn_deg:.2f} deg"
    return (
        f"{quality.method}{' with cameras' if quality.method == 'points' and quality.with_cameras else ''}"
        f" [points {share(quality.points_noise)}; cameras {turn}, {share(quality.cameras_shift)}]"
        f" {quality.reason or ''}"
    )


def _ate(whole: Drive, seams: list[Seam]) -> float:
    score = score_trajectory(whole.trajectory(chain(seams)), whole.truth.world_from_cam)
    assert score.ate_percent is not None
    return score.ate_percent


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _with_depth(chunk: ChunkGeometry, truth: Truth, depth: Tensor) -> Tensor:
    """Points [S, H, W, 3] of the chunk's cameras and depths [S, H, W] in its units."""
    cameras = invert_extrinsics(chunk.extrinsics)
    in_camera = unproject(depth, truth.intrinsics.expand(len(depth), 3, 3))
    points = in_camera @ cameras[:, None, :, :3].transpose(-1, -2)
    return points + cameras[:, None, None, :, 3]


def _with_sky(chunk: ChunkGeometry, truth: Truth, depth: float) -> ChunkGeometry:
    """Where the truth has no depth the network says this one, as confidently as any."""
    sky = truth.depth[list(chunk.frame_indices)] == 0
    points = torch.where(
        sky[..., None], _with_depth(chunk, truth, torch.full_like(truth.depth[:1], depth)), chunk.world_points
    )
    return replace(chunk, world_points=points, valid=torch.ones_like(chunk.valid))


def _random_depths(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    depth = 10 * torch.randn(chunk.valid.shape, generator=_generator(), dtype=torch.float64).exp()
    return replace(chunk, world_points=_with_depth(chunk, truth, depth))


def _random_cloud(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    points = 10 * torch.randn(chunk.world_points.shape, generator=_generator(), dtype=torch.float64)
    return replace(chunk, world_points=points)


def _other_pixels(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    order = torch.randperm(chunk.valid[0].numel(), generator=_generator())
    points = chunk.world_points.flatten(1, 2)[:, order].reshape(chunk.world_points.shape)
    return replace(chunk, world_points=points)


def _one_depth(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    return replace(chunk, world_points=_with_depth(chunk, truth, torch.full_like(truth.depth[:1], 10.0)))


def _flat_noise(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    """One smooth random surface a frame: nonsense that is not noisy."""
    coarse = torch.randn(len(chunk.valid), 1, 3, 4, generator=_generator(), dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=chunk.valid.shape[1:], mode="bicubic")[:, 0]
    return replace(chunk, world_points=_with_depth(chunk, truth, 10 * smooth.exp()))


def _no_depth(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    return replace(chunk, valid=torch.zeros_like(chunk.valid))


def _random_cameras(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    number = len(chunk.extrinsics)
    turns = roma.random_rotmat(number, dtype=torch.float64, generator=_generator())
    centres = 10 * torch.randn(number, 3, generator=_generator(), dtype=torch.float64)
    return replace(chunk, extrinsics=invert_extrinsics(torch.cat([turns, centres[..., None]], dim=2)))


def _random_centres(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    centres = 10 * torch.randn(len(chunk.extrinsics), 3, generator=_generator(), dtype=torch.float64)
    turns = invert_extrinsics(chunk.extrinsics)[..., :3]
    return replace(chunk, extrinsics=invert_extrinsics(torch.cat([turns, centres[..., None]], dim=2)))


def _still_cameras(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    return replace(
        chunk, extrinsics=torch.eye(4, dtype=torch.float64)[:3].repeat(len(chunk.extrinsics), 1, 1)
    )


def _third_of_cameras(chunk: ChunkGeometry, truth: Truth) -> ChunkGeometry:
    extrinsics = chunk.extrinsics.clone()
    extrinsics[::3] = _random_cameras(chunk, truth).extrinsics[::3]
    return replace(chunk, extrinsics=extrinsics)


def _both(points: Spoil, cameras: Spoil) -> Spoil:
    return lambda chunk, truth: cameras(points(chunk, truth), truth)


ONE_OVERLAP: dict[str, Spoil] = {
    "none": lambda chunk, truth: chunk,
    "points: random depths": _random_depths,
    "points: a random cloud": _random_cloud,
    "points: of other pixels": _other_pixels,
    "points: all at one depth": _one_depth,
    "points: smooth random surfaces": _flat_noise,
    "points: none valid": _no_depth,
    "cameras: random": _random_cameras,
    "cameras: random centres": _random_centres,
    "cameras: all the same": _still_cameras,
    "cameras: a third random": _third_of_cameras,
    "points and cameras: random": _both(_random_depths, _random_cameras),
    "points: random depths; cameras: random centres": _both(_random_depths, _random_centres),
    "points: random depths; cameras: all the same": _both(_random_depths, _still_cameras),
    "points: none valid; cameras: random": _both(_no_depth, _random_cameras),
}


if __name__ == "__main__":
    main()
