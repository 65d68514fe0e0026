"""The noise of a run, measured by how the pieces of overlaps disagree, against the errors that were put in."""

from __future__ import annotations

import math

import pytest
import torch

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustFitSettings, fit_robust, spread
from scal3r_train.inference.alignment.run_noise import RunNoise
from scal3r_train.inference.alignment.seam import SeamQuality
from scal3r_train.inference.alignment.seam_wander import Wander, seam_wander

FRAMES, POINTS, NOISE = 20, 60, 0.02


def quality(seed: int, bend: float) -> tuple[SeamQuality, Sim3]:
    """A seam between equal points with independent noise, where each frame turns by another share of `bend` [rad]."""
    generator = torch.Generator().manual_seed(seed)
    earlier = torch.randn(FRAMES * POINTS, 3, generator=generator, dtype=torch.float64)
    later = earlier + NOISE * torch.randn(earlier.shape, generator=generator, dtype=torch.float64)
    axis = torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)
    tangent = torch.zeros(FRAMES, 7, dtype=torch.float64)
    tangent[:, 3:6] = torch.linspace(-0.5, 0.5, FRAMES)[:, None].double() * bend * axis
    rotation = sim3_tangent.exp(tangent).rotation
    later = (later.reshape(FRAMES, POINTS, 3) @ rotation.transpose(1, 2)).reshape(-1, 3)
    weights = torch.ones(len(later), dtype=torch.float64)
    sim3 = fit_robust(later, earlier, weights, RobustFitSettings()).sim3
    residual = (earlier - sim3.apply(later)).norm(dim=1).median() / spread(earlier)
    wander = seam_wander(sim3, earlier, later, weights, FRAMES)
    return SeamQuality(
        "points", True, 1, len(later), 0, float(residual), 1, num_frames=FRAMES, wander=wander
    ), sim3


def test_independent_noise_is_found_and_does_not_grow() -> None:
    found = [quality(seed, 0.0) for seed in range(40)]
    noise = RunNoise.measured([one for one, _ in found])
    assert noise is not None
    errors = torch.stack([sim3_tangent.log(_batch(sim3))[0] for _, sim3 in found])
    actual = errors[:, 3:6].square().mean().sqrt()
    assert float(noise.fit[1].sqrt()) == pytest.approx(float(actual), rel=0.3)
    assert float(noise.drift_variance(FRAMES)[1]) < 9 * float(noise.fit[1])


def test_a_bend_grows_along_the_chunk() -> None:
    bend = math.radians(1.0)
    noise = RunNoise.measured([quality(seed, bend)[0] for seed in range(40)])
    assert noise is not None
    # The two chunks of a seam are each bent by half as much as they differ, squared and of one of three components.
    assert float(noise.drift_variance(FRAMES)[1].sqrt()) == pytest.approx(bend / 6**0.5, rel=0.15)


def test_chunks_that_do_not_differ_at_all_leave_numbers() -> None:
    """Of one still picture, predicted twice."""
    still = Wander((0.0,) * 7, ((0.0,) * 3,) * 3)
    noise = RunNoise.measured([SeamQuality("points", True, 1, 9, 0, 0.0, 1, num_frames=4, wander=still)] * 4)
    assert noise is not None
    assert noise.fit.isfinite().all() and (noise.fit > 0).all()
    assert noise.drift_variance(4).isfinite().all()


def test_errors_that_cancel_along_a_chain_count_less_than_those_that_add_up() -> None:
    alternating, equal = (
        RunNoise.measured([_with_misfit(0.01 * sign**k) for k in range(40)]) for sign in (-1, 1)
    )
    assert alternating is not None
    assert equal is not None
    assert float(alternating.fit[2]) < 1e-5 < 1e-4 < float(equal.fit[2])


def test_two_seams_show_too_little() -> None:
    assert RunNoise.measured([quality(seed, 0.0)[0] for seed in range(2)]) is None


def test_a_seam_that_fell_apart_has_its_own_noise() -> None:
    noise = RunNoise.measured([quality(seed, 0.0)[0] for seed in range(10)])
    assert noise is not None
    apart = SeamQuality(
        "points",
        True,
        1,
        1000,
        0,
        noise.residual,
        1,
        num_frames=FRAMES,
        wander=Wander((0.0,) * 7, ((1.0,) * 3,) * 3),
    )
    assert noise.fit_variance(apart).tolist() == [1 / 8] * 3


def _with_misfit(scale: float) -> SeamQuality:
    wander = Wander((0.0,) * 6 + (scale,), ((1e-3,) * 3,) * 3)
    return SeamQuality("points", True, 1, 1000, 0, 0.01, 1, num_frames=FRAMES, wander=wander)


def _batch(sim3: Sim3):  # type: ignore[no-untyped-def]
    from scal3r_train.geometry.sim3 import Sim3Batch

    return Sim3Batch.stack([sim3])
