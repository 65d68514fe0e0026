"""The covariance of seams by cameras: what their overlap shows, and what odometry drifts by along a chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.chunk_scales import chain_with_scales
from scal3r_train.inference.alignment.seam import Seam, SeamQuality, align_chunks
from scal3r_train.inference.alignment.seam_covariance import Advance, SeamErrors, seam_covariances
from scal3r_train.inference.alignment.settings import AlignmentSettings, SeamNoiseSettings
from scal3r_train.inference.loop_closure.agreement import Chain

SETTINGS = SeamNoiseSettings(odometry_turn_std_deg=math.degrees(1e-3), odometry_distance_std=0.05)
STEP = 3.0


def seam(*, log_scale_std: float | None = None) -> Seam:
    """A chunk three units ahead of the one before it, joined by cameras that agree to 1e-6."""
    identity = torch.eye(3, dtype=torch.float64)
    ahead = Sim3(torch.ones((), dtype=torch.float64), identity, torch.tensor([0, 0, STEP]).double())
    quality = SeamQuality("cameras", True, 1.0, 1000, log_scale_std=log_scale_std)
    return Seam(ahead, quality, 1e-12 * torch.eye(7, dtype=torch.float64))


def test_odometry_drifts_by_distance_and_frames() -> None:
    stds = seam_covariances([seam()], SETTINGS, None, [Advance(8, STEP)])[0].diagonal().sqrt()
    assert stds[:3].tolist() == pytest.approx([0.05 * STEP] * 3, rel=1e-6)
    assert stds[3:6].tolist() == pytest.approx([8e-3] * 3, rel=1e-6)


def test_a_scale_that_is_given_is_not_measured() -> None:
    given, free = seam_covariances([seam(), seam(log_scale_std=0.01)], SETTINGS)[:, 6, 6].sqrt().tolist()
    assert given == pytest.approx(SETTINGS.min_relative_std, rel=1e-3)
    assert free == pytest.approx(SETTINGS.cameras_relative_std, rel=1e-3)


def test_another_scale_leaves_the_shared_cameras_where_they_are() -> None:
    """A drive straight on; each chunk's origin is its sixth camera, the four that are shared lie before that."""
    random = torch.Generator().manual_seed(0)

    def shared(first: int, reference: int) -> tuple[ChunkGeometry, torch.Tensor]:
        centres = 0.01 * torch.randn(4, 3, generator=random, dtype=torch.float64)
        centres[:, 2] += torch.arange(first, first + 4) - reference
        world_from_cam = torch.cat([torch.eye(3).double().expand(4, 3, 3), centres[..., None]], dim=-1)
        points, nothing = torch.zeros(4, 2, 2, 3).double(), torch.zeros(4, 2, 2)
        frames = range(first, first + 4)
        return ChunkGeometry(
            frames, points, nothing, nothing.bool(), invert_extrinsics(world_from_cam)
        ), centres

    (earlier, there), (later, here) = shared(8, 5), shared(8, 13)
    seam = align_chunks(earlier, later, AlignmentSettings(max_scale_std=1.0))
    assert seam.quality.method == "cameras" and seam.quality.log_scale_std is not None
    covariances = seam_covariances([seam], SETTINGS, None, [Advance(8, 8.0)])
    scale = float(seam.earlier_from_later.scale.log()) + 0.1
    _, relative = chain_with_scales([seam], covariances, np.array([0.0, scale]))
    assert float(relative.scale.log()) == pytest.approx(scale)
    apart = (relative.apply(here) - there).mean(0) - (seam.earlier_from_later.apply(here) - there).mean(0)
    assert apart.norm() < 5e-3  # of 8: how an overlap's own noise lets a scale move it


def test_cameras_that_measured_no_noise_have_the_usual_error_whatever_points_say() -> None:
    quality = SeamQuality(
        "cameras", True, 1.0, 1000, residual_median=1e-4, residual_rms=1e-4, inlier_share=1.0, spread=2.0
    )
    (found,) = (
        seam_covariances([Seam(seam().earlier_from_later, quality)], SETTINGS).diagonal(dim1=1, dim2=2).sqrt()
    )
    usual = SETTINGS.cameras_relative_std
    assert found[3:].tolist() == pytest.approx([usual] * 4)
    assert float(found[0]) >= 2 * usual


def test_a_long_way_errs_as_a_random_walk_does() -> None:
    """Rotation by the root of the number of chunks; sideways by what the rotations before it add up to."""
    num = 50
    seams = [seam()] * num
    errors = SeamErrors.of(seams, [range(8 * n, 8 * n + 12) for n in range(num + 1)], SETTINGS)
    assert errors.advance == Advance(8, STEP)
    nodes = Sim3Batch(
        torch.ones(num + 1, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64).repeat(num + 1, 1, 1),
        torch.tensor([[0, 0, STEP * n] for n in range(num + 1)], dtype=torch.float64),
    )
    seen_from_the_end = Chain(nodes, errors.covariances).drift(num, 0)
    turn, step = 8e-3, 0.05 * STEP
    assert float(seen_from_the_end[4, 4].sqrt()) == pytest.approx(turn * num**0.5, rel=1e-6)
    arms = sum((STEP * n) ** 2 for n in range(num))
    assert float(seen_from_the_end[0, 0]) == pytest.approx(num * step**2 + turn**2 * arms, rel=1e-6)
