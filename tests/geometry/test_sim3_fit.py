"""Fits: exact recovery, scipy and direct optimisation as references, outliers, scale invariance, degenerate data."""

import pytest
import roma
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import (
    REFERENCE_FIT,
    RobustFitSettings,
    fit_kabsch,
    fit_robust,
    fit_umeyama,
    fit_weighted,
    spread,
)
from tests.geometry.test_sim3 import assert_same, random_sim3

DEFAULT = RobustFitSettings()
HUBER = RobustFitSettings(method="huber")


def cloud(num_points: int, seed: int = 0) -> torch.Tensor:
    """Random points [N, 3], no symmetry, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, 3, generator=generator, dtype=torch.float64)
    return points * torch.tensor([1.0, 2, 3]) + torch.tensor([0.0, 1, 8])


def noise(num_points: int, size: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(num_points, 3, generator=generator, dtype=torch.float64)


def rms_error(found: Sim3, true: Sim3, points: torch.Tensor) -> float:
    """Rms distance between the images of points, relative to the size of the true image."""
    error = (found.apply(points) - true.apply(points)).square().sum(-1).mean().sqrt()
    return (error / spread(true.apply(points))).item()


@pytest.mark.parametrize("seed", range(4))
def test_exact_data_are_recovered(seed: int) -> None:
    true, source = random_sim3(seed), cloud(20, seed)
    rigid = Sim3(torch.ones_like(true.scale), true.rotation, true.translation)
    weights = torch.rand(20, dtype=torch.float64) + 0.1
    assert_same(fit_kabsch(source, rigid.apply(source)), rigid)
    assert_same(fit_umeyama(source, true.apply(source)), true)
    assert_same(fit_weighted(source, true.apply(source), weights), true)
    for settings in (DEFAULT, HUBER, REFERENCE_FIT):
        assert_same(fit_robust(source, true.apply(source), weights, settings).sim3, true)


def test_kabsch_rotation_is_scipys() -> None:
    source, target = cloud(30), random_sim3(1).apply(cloud(30)) + noise(30, 0.5, 1)
    expected, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    torch.testing.assert_close(fit_kabsch(source, target).rotation, torch.from_numpy(expected.as_matrix()))


def test_umeyama_is_the_least_squares_minimum() -> None:
    source, target = cloud(15), random_sim3(2).apply(cloud(15)) + noise(15, 0.7, 2)

    def cost(parameters: torch.Tensor) -> float:
        p = torch.as_tensor(parameters)
        return (
            (target - Sim3(p[0].exp(), roma.rotvec_to_rotmat(p[1:4]), p[4:]).apply(source))
            .square()
            .sum()
            .item()
        )

    fitted = fit_umeyama(source, target)
    start = torch.cat([fitted.scale.log()[None], roma.rotmat_to_rotvec(fitted.rotation), fitted.translation])
    best = minimize(cost, (start + 0.01).numpy(), method="BFGS", options={"gtol": 1e-9}).fun
    assert cost(start) == pytest.approx(best, rel=1e-8)


def test_the_symmetric_scale_does_not_shrink_with_noise_in_the_source() -> None:
    clean, weights = cloud(50_000), torch.ones(50_000)
    source, target = clean + noise(50_000, 0.3, 3), clean + noise(50_000, 0.3, 4)
    forth, back = fit_weighted(source, target, weights), fit_weighted(target, source, weights)
    assert forth.scale.item() == pytest.approx(1, abs=2e-3)
    assert_same(forth.inverse(), back)
    assert fit_umeyama(source, target).scale < 0.99


def test_weights_count_like_repeated_points() -> None:
    source, target = cloud(12), random_sim3(3).apply(cloud(12)) + noise(12, 0.2, 5)
    counts = torch.arange(1, 13)
    repeated = fit_weighted(
        source.repeat_interleave(counts, 0), target.repeat_interleave(counts, 0), torch.ones(counts.sum())
    )
    assert_same(fit_weighted(source, target, 7 * counts), repeated)


@pytest.mark.parametrize("flatten", [0, 1])
def test_planes_and_lines_never_give_a_reflection(flatten: int) -> None:
    """A mirror image of a plane is also a turned plane; of a line only the direction is determined."""
    source = cloud(40)
    source[:, 0] = 0
    source[:, : flatten + 1] = 0
    true = random_sim3(4)
    target = true.apply(source)
    for found in (fit_umeyama(source, target), fit_robust(source, target, torch.ones(40), DEFAULT).sim3):
        assert torch.linalg.det(found.rotation).item() == pytest.approx(1)
        torch.testing.assert_close(found.apply(source), target, rtol=0, atol=1e-9)


def test_a_mirrored_cloud_gets_the_best_proper_rotation() -> None:
    source = cloud(40)
    target = source * torch.tensor([-1.0, 1, 1])
    found = fit_umeyama(source, target)
    assert torch.linalg.det(found.rotation).item() == pytest.approx(1)
    residual = (target - found.apply(source)).square().sum()
    for axis in torch.eye(3, dtype=torch.float64):  # no small turn improves it
        turned = Sim3(found.scale, roma.rotvec_to_rotmat(1e-3 * axis) @ found.rotation, found.translation)
        shifted = target.mean(0) - turned.apply(source).mean(0)
        assert (target - turned.apply(source) - shifted).square().sum() >= residual


def test_points_that_coincide_get_scale_zero() -> None:
    target = cloud(9)
    found = fit_umeyama(torch.ones(9, 3) * 3.3, target)
    assert found.scale == 0
    torch.testing.assert_close(found.apply(torch.ones(3) * 3.3), target.mean(0))


@pytest.mark.parametrize("distance", [0.2, 3.0, 100.0, 1e6])
@pytest.mark.parametrize("coherent", [False, True])
def test_a_third_of_outliers_is_harmless(distance: float, coherent: bool) -> None:
    true, source = random_sim3(5), cloud(6000)
    target = true.apply(source)
    target[:2000] += distance * spread(target) * (torch.ones(3) if coherent else noise(2000, 1, 6))
    found = fit_robust(source, target, 1 + torch.rand(6000), DEFAULT)
    assert rms_error(found.sim3, true, source) < 1e-9
    assert found.converged
    assert (found.residuals[2000:] < 1e-8).all()


def test_noise_with_outliers_is_fitted_nearly_as_well_as_noise_alone() -> None:
    true, source = random_sim3(6), cloud(9000)
    target = true.apply(source) + noise(9000, 0.05, 7)
    alone = rms_error(fit_weighted(source[3000:], target[3000:], torch.ones(6000)), true, source)
    target[:3000] += 5 * spread(target)
    robust = rms_error(fit_robust(source, target, torch.ones(9000), DEFAULT).sim3, true, source)
    plain = rms_error(fit_weighted(source, target, torch.ones(9000)), true, source)
    assert robust < max(3 * alone, 2e-3)
    assert plain > 100 * robust


@pytest.mark.parametrize("settings", [DEFAULT, HUBER])
def test_the_default_does_not_depend_on_units_and_the_reference_does(settings: RobustFitSettings) -> None:
    true, source = random_sim3(7), cloud(500)
    target = true.apply(source) + noise(500, 0.1, 8)
    target[:100] += 1.0
    weights = torch.ones(500)

    def fit_in_units(unit: float, chosen: RobustFitSettings) -> Sim3:
        found = fit_robust(source, target * unit, weights, chosen).sim3
        return Sim3(found.scale / unit, found.rotation, found.translation / unit)

    assert_same(fit_in_units(1e-3, settings), fit_in_units(1e3, settings), atol=1e-7)
    small, large = fit_in_units(1e-3, REFERENCE_FIT), fit_in_units(1e3, REFERENCE_FIT)
    assert (small.matrix() - large.matrix()).abs().max() > 1e-3


def test_the_reference_returns_the_estimate_before_the_last() -> None:
    source = cloud(300)
    target = random_sim3(8).apply(source) + noise(300, 0.05, 9)
    target[:30] += 0.5
    settings = REFERENCE_FIT.model_copy(update={"tolerance": 1e-3, "max_rounds": 50})
    fit = fit_robust(source, target, torch.ones(300), settings)
    assert fit.converged
    assert fit.sim3 is fit.solves[-2]
    newest = settings.model_copy(update={"discard_last_estimate": False})
    ours = fit_robust(source, target, torch.ones(300), newest)
    assert ours.sim3 is ours.solves[-1]


def test_a_million_float32_inputs_are_summed_exactly() -> None:
    generator = torch.Generator().manual_seed(10)
    source = (10 + torch.randn(1_000_000, 3, generator=generator)).float()
    true = random_sim3(9)
    target = true.apply(source)
    weights = 1 + torch.rand(1_000_000, generator=generator)
    assert rms_error(fit_weighted(source, target, weights), true, source[:1000]) < 1e-9
