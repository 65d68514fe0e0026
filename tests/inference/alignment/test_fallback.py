"""Points or cameras that are nonsense: outvoted by the other, both: a named break; noise measured where it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import roma
import torch

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.camera_seam import fit_cameras
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.point_noise import NoiseCurve
from scal3r_train.inference.alignment.seam import align_chunks
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.loop_closure.edges import make_loop_edge
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from tests.geometry.test_sim3 import assert_same, random_sim3

FRAMES, HEIGHT, WIDTH = 8, 18, 24
SETTINGS = AlignmentSettings()
Spoil = Callable[[ChunkGeometry], ChunkGeometry]


def generator(seed: int = 9) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drive_pair(
    *, depth_noise: float = 0.01, turn_deg: float = 0.05, shift: float = 0.01, seed: int = 0, sky: float = 0.0
) -> tuple[ChunkGeometry, ChunkGeometry, Sim3]:
    """A camera that drives forward one unit a frame, seen by two chunks with noise of their own, and the truth.

    The upper `sky` of every picture has no depth; both chunks put it at one of their own units' depths, alike.
    """
    draw = generator(seed)
    y, x = torch.meshgrid(
        torch.linspace(-0.5, 0.5, HEIGHT).double(), torch.linspace(-0.8, 0.8, WIDTH).double(), indexing="ij"
    )
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    depth = 3 + 30 * torch.rand(FRAMES, HEIGHT, WIDTH, generator=draw, dtype=torch.float64) ** 2
    angles = torch.zeros(FRAMES, 7, dtype=torch.float64)
    angles[:, 4] = torch.linspace(0, 0.3, FRAMES)
    cameras = torch.cat([sim3_tangent.exp(angles).rotation, torch.zeros(FRAMES, 3, 1).double()], dim=2)
    cameras[:, 2, 3] = torch.arange(FRAMES)
    chunks = []
    sims = (random_sim3(1), random_sim3(2))
    for chunk_from_world in sims:
        scale = chunk_from_world.scale
        said = depth * (1 + depth_noise * torch.randn(depth.shape, generator=draw, dtype=torch.float64))
        said[:, : round(sky * HEIGHT)] = 40 / scale
        shaken = torch.randn(FRAMES, 7, generator=draw, dtype=torch.float64) / math.sqrt(3)
        shaken *= torch.tensor([shift] * 3 + [math.radians(turn_deg)] * 3 + [0])
        moved = sim3_tangent.exp(shaken)
        here = torch.cat(
            [cameras[..., :3] @ moved.rotation, cameras[..., 3:] + moved.translation[..., None]], dim=2
        )
        points = (said[..., None] * rays) @ here[:, None, :, :3].transpose(-1, -2) + here[:, None, None, :, 3]
        valid = torch.ones_like(depth, dtype=torch.bool)
        extrinsics = invert_extrinsics(chunk_from_world.apply_to_world_from_cam(here))
        chunks.append(
            ChunkGeometry(
                range(FRAMES), chunk_from_world.apply(points), torch.full_like(depth, 2), valid, extrinsics
            )
        )
    return chunks[0], chunks[1], sims[0] @ sims[1].inverse()


def error(found: Sim3, true: Sim3, later: ChunkGeometry) -> float:
    """Worst displacement of the later chunk's cameras, relative to how far they go."""
    centres = invert_extrinsics(later.extrinsics)[..., 3]
    there = true.apply(centres)
    return float((found.apply(centres) - there).norm(dim=1).max() / (there[-1] - there[0]).norm())


def random_points(chunk: ChunkGeometry) -> ChunkGeometry:
    points = torch.randn(chunk.world_points.shape, generator=generator(), dtype=torch.float64)
    return replace(chunk, world_points=10 * points)


def random_depths(chunk: ChunkGeometry) -> ChunkGeometry:
    centres = invert_extrinsics(chunk.extrinsics)[:, None, None, :, 3]
    factor = torch.randn(chunk.valid.shape, generator=generator(), dtype=torch.float64).exp()
    return replace(chunk, world_points=centres + factor[..., None] * (chunk.world_points - centres))


def flat_points(chunk: ChunkGeometry) -> ChunkGeometry:
    """All at one depth, which is nonsense that agrees with itself."""
    centres = invert_extrinsics(chunk.extrinsics)[:, None, None, :, 3]
    directions = torch.nn.functional.normalize(chunk.world_points - centres, dim=-1)
    return replace(chunk, world_points=centres + 5 * directions)


def random_cameras(chunk: ChunkGeometry) -> ChunkGeometry:
    turns = roma.random_rotmat(FRAMES, dtype=torch.float64, generator=generator())
    centres = 10 * torch.randn(FRAMES, 3, 1, generator=generator(), dtype=torch.float64)
    return replace(chunk, extrinsics=torch.cat([turns, centres], dim=2))


def still_cameras(chunk: ChunkGeometry) -> ChunkGeometry:
    return replace(chunk, extrinsics=torch.eye(4, dtype=torch.float64)[:3].repeat(FRAMES, 1, 1))


@pytest.mark.parametrize("spoil", [random_points, random_depths, flat_points])
@pytest.mark.parametrize("mode", ["sim3", "sim3_unweighted"])
def test_nonsense_points_leave_the_seam_to_the_cameras(spoil: Spoil, mode: str) -> None:
    earlier, later, true = drive_pair()
    seam = align_chunks(earlier, spoil(later), AlignmentSettings(mode=mode))
    assert seam.quality.method == "cameras"
    assert "shared pixels differ" in str(seam.quality.reason)
    assert error(seam.earlier_from_later, true, later) < 0.01
    alone = align_chunks(earlier, spoil(later), AlignmentSettings(mode=mode, evidence="points"))
    assert error(alone.earlier_from_later, true, later) > 0.05


@pytest.mark.parametrize("spoil", [random_cameras, still_cameras])
def test_nonsense_cameras_leave_the_seam_to_the_points(spoil: Spoil) -> None:
    earlier, later, true = drive_pair()
    seam = align_chunks(earlier, spoil(later), SETTINGS)
    assert (seam.quality.method, seam.quality.with_cameras, seam.quality.trusted) == ("points", False, True)
    assert "shared" in str(seam.quality.reason)
    assert error(seam.earlier_from_later, true, later) < 0.01


def test_cameras_that_never_move_agree_whatever_they_are_and_outvote_nothing() -> None:
    earlier, later, true = drive_pair()
    seam = align_chunks(still_cameras(earlier), still_cameras(later), SETTINGS)
    assert seam.quality.method == "points"
    assert error(seam.earlier_from_later, true, later) < 0.01
    blind = align_chunks(still_cameras(earlier), random_points(still_cameras(later)), SETTINGS)
    assert blind.quality.method == "break"
    assert "do not show the scale" in str(blind.quality.reason)


@pytest.mark.parametrize("points", [random_points, random_depths])
def test_nonsense_in_both_is_a_break_that_says_why(points: Spoil) -> None:
    earlier, later, _ = drive_pair()
    seam = align_chunks(earlier, random_cameras(points(later)), SETTINGS)
    assert (seam.quality.method, seam.quality.trusted) == ("break", False)
    assert "shared pixels differ" in str(seam.quality.reason)
    assert "cameras of shared frames turn" in str(seam.quality.reason)


def test_a_third_of_the_cameras_may_be_anything() -> None:
    earlier, later, true = drive_pair()
    wrong = later.extrinsics.clone()
    wrong[1:7:3] = random_cameras(later).extrinsics[1:7:3]
    fit = fit_cameras(earlier, replace(later, extrinsics=wrong), None)
    assert fit is not None
    assert error(fit.sim3, true, later) < 0.02
    assert math.degrees(fit.turn) < 1


@pytest.mark.parametrize("sky", [0.3, 0.6])
def test_a_sky_that_both_invent_alike_does_not_win_by_its_size(sky: float) -> None:
    """It says that both chunks have the same scale, exactly; cameras and near points say otherwise."""
    earlier, later, true = drive_pair(sky=sky)
    assert abs(math.log(true.scale)) > 0.2
    seam = align_chunks(earlier, later, SETTINGS)
    assert error(seam.earlier_from_later, true, later) < 0.02
    assert seam.quality.scale == pytest.approx(true.scale.item(), rel=5e-3)


def test_the_two_together_are_better_than_either() -> None:
    squares = torch.zeros(3, dtype=torch.float64)
    for seed in range(6):
        earlier, later, true = drive_pair(seed=seed, depth_noise=0.05, turn_deg=0.3, shift=0.02)
        for row, evidence in enumerate(("points", "cameras", "both")):
            seam = align_chunks(earlier, later, AlignmentSettings(evidence=evidence))
            squares[row] += error(seam.earlier_from_later, true, later) ** 2
    assert squares[2] < squares[:2].min()


def test_the_stated_covariance_is_that_of_the_errors() -> None:
    """Mahalanobis distances of points' and of cameras' errors are about the root of the number of parameters."""
    found: dict[str, list[float]] = {"points": [], "cameras": []}
    for seed in range(12):
        earlier, later, true = drive_pair(seed=seed, depth_noise=0.05, turn_deg=0.0, shift=0.0)
        shaken = drive_pair(seed=seed, turn_deg=0.3, shift=0.02)
        for evidence, (one, two, _) in (("points", (earlier, later, true)), ("cameras", shaken)):
            seam = align_chunks(one, two, AlignmentSettings(evidence=evidence))
            assert seam.covariance is not None
            between = Sim3Batch.stack([seam.earlier_from_later]).inverse() @ Sim3Batch.stack([true])
            apart = sim3_tangent.log(between)[0]
            found[evidence].append(float(apart @ torch.linalg.solve(seam.covariance, apart)))
    for distances in found.values():
        assert 1.5 < torch.tensor(distances).median() < 20  # 7 parameters


def test_points_that_are_trusted_and_cameras_that_agree_on_something_else_are_not_averaged() -> None:
    earlier, later, true = drive_pair()
    turned = Sim3(true.scale.new_tensor(1.5), random_sim3(3).rotation, torch.zeros(3).double())
    elsewhere = invert_extrinsics(turned.apply_to_world_from_cam(invert_extrinsics(later.extrinsics)))
    seam = align_chunks(earlier, replace(later, extrinsics=elsewhere), SETTINGS)
    assert (seam.quality.method, seam.quality.with_cameras) == ("points", False)
    assert "cameras say otherwise" in str(seam.quality.reason)
    assert error(seam.earlier_from_later, true, later) < 0.02


@pytest.mark.parametrize("mode", ["sim3_scale_locked", "se3"])
def test_a_scale_that_is_given_and_wrong_makes_nothing_nonsense(mode: str) -> None:
    earlier, later, _ = drive_pair()
    seam = align_chunks(earlier, later, AlignmentSettings(mode=mode))
    assert (seam.quality.method, seam.quality.scale, seam.quality.log_scale_std) == ("points", 1.0, None)
    assert_same(
        Sim3(seam.earlier_from_later.scale, torch.eye(3).double(), torch.zeros(3).double()), Sim3.identity()
    )


def test_noise_is_measured_band_by_band() -> None:
    draw = generator()
    depths = 1 + 99 * torch.rand(40_000, generator=draw, dtype=torch.float64)
    relative = torch.where(depths > 80, 0.3, 0.01)
    residuals = (torch.randn(40_000, generator=draw, dtype=torch.float64) * relative * depths).abs()
    curve = NoiseCurve.measured(depths, residuals, torch.ones_like(depths))
    near, far = curve.at(torch.tensor([10.0, 95.0], dtype=torch.float64)).tolist()
    assert near == pytest.approx(0.6745 * 0.01 * 10, rel=0.1)
    assert far == pytest.approx(0.6745 * 0.3 * 95, rel=0.1)
    exact = NoiseCurve.measured(depths, torch.zeros_like(depths), torch.ones_like(depths))
    assert (exact.at(depths) > 0).all()


def test_all_pixels_give_what_few_cannot() -> None:
    errors = []
    for all_pixels in (False, True):
        settings = AlignmentSettings(evidence="points", max_points=300, all_pixels=all_pixels)
        squares = 0.0
        for seed in range(6):
            earlier, later, true = drive_pair(seed=seed, turn_deg=0, shift=0)
            squares += error(align_chunks(earlier, later, settings).earlier_from_later, true, later) ** 2
        errors.append(squares**0.5)
    assert errors[1] < 0.6 * errors[0]


def test_cameras_alone_join_and_points_only_say_how_well() -> None:
    earlier, later, true = drive_pair()
    by_cameras = AlignmentSettings(evidence="cameras")
    seam = align_chunks(earlier, later, by_cameras)
    spoilt = align_chunks(earlier, random_points(later), by_cameras)
    assert_same(seam.earlier_from_later, spoilt.earlier_from_later)
    assert error(seam.earlier_from_later, true, later) < 0.02
    points = earlier.world_points.reshape(-1, 3)
    apart = (points - seam.earlier_from_later.apply(later.world_points.reshape(-1, 3))).norm(dim=1)
    size = (points - points.median(dim=0).values).norm(dim=1).median()
    assert seam.quality.residual_median == pytest.approx(float(apart.median() / size))
    assert seam.quality.inlier_share == pytest.approx(float((apart / size <= 0.05).double().mean()))
    assert (seam.quality.method, seam.quality.trusted, seam.quality.num_frames) == ("cameras", True, FRAMES)
    assert (spoilt.quality.method, spoilt.quality.trusted) == ("cameras", False)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_loop_whose_ends_are_joined_by_cameras_is_judged_by_points(*, spoilt: bool) -> None:
    by_cameras = AlignmentSettings(evidence="cameras")
    pairs = [drive_pair(seed=seed)[:2] for seed in range(4)]
    seams = [align_chunks(earlier, later, by_cameras).quality for earlier, later in pairs]
    (a, at_a), (c, at_c) = pairs[:2]
    at_c = random_points(at_c) if spoilt else at_c
    both = {
        name: torch.cat([getattr(at_a, name), getattr(at_c, name)])
        for name in ("world_points", "confidence", "valid", "extrinsics")
    }
    loop = ChunkGeometry([*range(FRAMES), *range(100, 100 + FRAMES)], **both)
    ends = {0: a, 5: replace(c, frame_indices=range(100, 100 + FRAMES))}
    edge = make_loop_edge(ends, loop, seams, by_cameras, LoopEdgeSettings())
    assert edge.accepted is not spoilt, edge.reason
    assert ("at chunk 5" in edge.reason) is spoilt
