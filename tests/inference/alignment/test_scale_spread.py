"""Scales of a chain of chunks against dense algebra, and by simulation between rigid and free seams."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from scal3r_train.inference.alignment import scale_spread
from scal3r_train.inference.alignment.scale_spread import estimate_scales, scale_deviations
from scal3r_train.inference.alignment.settings import CommonScaleSettings

SETTINGS = CommonScaleSettings()
GAUSSIAN = CommonScaleSettings(freedom=1e9, usual_noise_factor=1e6)


def chain(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ratios, variances of chunks, of seams) that differ from place to place."""
    random = np.random.default_rng(seed)
    return random.normal(size=num - 1), random.uniform(0.1, 2, num), random.uniform(0.1, 2, num - 1)


def dense(chunk_variances: np.ndarray, seam_variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D, S) written out."""
    difference = np.diff(np.eye(len(chunk_variances)), axis=0)
    return difference, difference @ np.diag(chunk_variances) @ difference.T + np.diag(seam_variances)


@pytest.mark.parametrize("num", [2, 3, 4, 9])
def test_the_closed_form_is_generalised_least_squares(num: int) -> None:
    ratios, of_chunks, of_seams = chain(num)
    # Weighted least squares over scales and their common value: rows of ratios, then of distances from that.
    rows = np.concatenate([np.diff(np.eye(num), axis=0), np.eye(num)])
    rows = np.concatenate([rows, np.r_[np.zeros(num - 1), -np.ones(num)][:, None]], axis=1)
    weights = 1 / np.sqrt(np.r_[of_seams, of_chunks])
    right = np.r_[ratios, np.zeros(num)]
    expected, *_ = np.linalg.lstsq(rows * weights[:, None], right * weights, rcond=None)
    found = scale_deviations(ratios, of_chunks, of_seams)
    np.testing.assert_allclose(found - found[0], expected[:-1] - expected[0], rtol=1e-9, atol=1e-12)


def test_rigid_and_free_seams_are_its_ends() -> None:
    ratios, of_chunks, of_seams = chain(7)
    assert not scale_deviations(ratios, 0 * of_chunks, of_seams).any()
    found = scale_deviations(ratios, of_chunks, 0 * of_seams)
    np.testing.assert_allclose(np.diff(found), ratios, rtol=1e-12)


@pytest.mark.parametrize("num", [2, 3, 8])
def test_likelihood_and_errors_are_those_of_dense_algebra(num: int) -> None:
    ratios, of_chunks, of_seams = chain(num, seed=num)
    std, factor = np.array([0.5, 0.0, 2.0]), np.array([1.5, 0.7, 0.3])
    found = scale_spread._costs(ratios, std, factor, of_chunks, of_seams, SETTINGS)
    expected = [
        np.square(np.log(f) / np.log(SETTINGS.usual_noise_factor))
        - 2 * multivariate_normal(cov=dense(s**2 * of_chunks, f**2 * of_seams)[1]).logpdf(ratios)
        for s, f in zip(std, factor, strict=True)
    ]
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=0, atol=1e-9)

    difference, covariance = dense(of_chunks, of_seams)
    inverse = np.linalg.inv(covariance)
    gain = np.diag(of_chunks) @ difference.T @ inverse
    left_of_chunks = np.diag(of_chunks) - gain @ difference @ np.diag(of_chunks)
    left_of_seams = np.diag(of_seams) - np.diag(of_seams) @ inverse @ np.diag(of_seams)
    chunks, seams = scale_spread._squares(ratios, of_chunks, of_seams)
    np.testing.assert_allclose(chunks, (gain @ ratios) ** 2 + np.diag(left_of_chunks), rtol=1e-9)
    expected_seams = (of_seams * (inverse @ ratios)) ** 2 + np.diag(left_of_seams)
    np.testing.assert_allclose(seams, expected_seams, rtol=1e-9)


def test_spreads_are_those_of_greatest_likelihood() -> None:
    random = np.random.default_rng(1)
    ratios = np.diff(0.05 * random.normal(size=60)) + 0.03 * random.normal(size=59)
    found = estimate_scales(ratios, np.full(59, 0.02), GAUSSIAN)

    def cost(logs: np.ndarray) -> float:
        variances = np.exp(2 * logs)
        covariance = dense(np.full(60, variances[0]), np.full(59, variances[1] * 0.02**2))[1]
        return float(-2 * multivariate_normal(cov=covariance).logpdf(ratios))

    best = minimize(cost, np.log([0.05, 1.0]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    here = cost(np.log([found.chunk_std, found.noise_factor]))
    assert here == pytest.approx(best.fun, abs=0.01)
    assert np.log([found.chunk_std, found.noise_factor]) == pytest.approx(best.x, abs=0.03)


def errors(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    num: int,
    seam_std: float,
    stated: float,
    bias: float = 0.0,
) -> dict[str, float]:
    """Root mean square errors of log-scales over trials: free seams, one scale, the estimate, known spreads."""
    random = np.random.default_rng(num)
    squares: dict[str, list[float]] = {"free": [], "rigid": [], "ours": [], "known": []}
    for _ in range(8):
        truth = draw(random, num)
        ratios = np.diff(truth) + bias + seam_std * random.normal(size=num - 1)
        known_variances = (
            np.full(num, max(truth.std(), 1e-9) ** 2),
            np.full(num - 1, max(seam_std, 1e-9) ** 2),
        )
        found = {
            "free": np.r_[0.0, ratios.cumsum()],
            "rigid": np.zeros(num),
            "ours": estimate_scales(ratios, np.full(num - 1, stated), SETTINGS).log_scales,
            "known": scale_deviations(ratios, *known_variances),
        }
        for name, scales in found.items():
            squares[name].append(float(np.var(scales - truth)))
    return {name: float(np.sqrt(np.mean(values))) for name, values in squares.items()}


def independent(std: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda random, num: std * random.normal(size=num)


@pytest.mark.parametrize(
    ("chunk_std", "seam_std", "num", "gain"),
    [(0.02, 0.02, 40, 0.9), (0.1, 0.01, 40, 0.95), (0.05, 0.05, 10, 0.95), (0.01, 0.05, 40, 1.6)],
)
def test_between_the_ends_it_is_better_than_both(
    chunk_std: float, seam_std: float, num: int, gain: float
) -> None:
    """But where the better end is the best one can do: there it is not much worse, for spreads have to be guessed."""
    found = errors(independent(chunk_std), num, seam_std, stated=seam_std)
    assert found["ours"] < gain * min(found["free"], found["rigid"])
    assert found["ours"] < 1.6 * found["known"]


@pytest.mark.parametrize("stated", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("bias", [0.0, 0.05])
def test_chunks_of_one_scale_get_one_scale(stated: float, bias: float) -> None:
    """However wrong the seams, also all the same way, and whatever they state of it."""
    found = errors(independent(0.0), 30, 0.05, stated, bias)
    assert found["ours"] < 0.08 * found["free"]
    assert found["ours"] < 0.012


@pytest.mark.parametrize("num", [2, 3, 5, 30])
def test_random_scales_are_kept_where_seams_are_exact(num: int) -> None:
    found = errors(lambda random, size: np.log(random.uniform(0.5, 2, size)), num, 0.0, stated=1e-4)
    assert found["ours"] < 1e-5


def test_scales_that_drift_away_are_followed_where_seams_are_good() -> None:
    """Noisy seams would look alike: these say that they are not."""
    found = errors(lambda random, size: 0.05 * random.normal(size=size).cumsum(), 60, 0.002, stated=0.002)
    assert found["ours"] < 0.1 * found["rigid"]
    assert found["ours"] < 3 * found["free"]


def test_single_wild_chunks_and_seams_decide_nothing() -> None:
    random = np.random.default_rng(3)
    noise, stated = 0.01 * random.normal(size=39), np.full(39, 0.01)
    truth = np.zeros(40)
    truth[20] = 0.7
    found = estimate_scales(np.diff(truth) + noise, stated, SETTINGS)
    np.testing.assert_allclose(found.log_scales, truth, atol=0.04)
    wild = noise.copy()
    wild[20] += 0.7
    found = estimate_scales(wild, stated, SETTINGS)
    np.testing.assert_allclose(found.log_scales, 0, atol=0.04)
    assert found.seam_variances[20] > 100 * np.median(found.seam_variances)


def test_the_same_numbers_give_the_same_scales_in_any_unit() -> None:
    ratios, *_ = chain(12)
    found = estimate_scales(0.1 * ratios, np.full(11, 0.03), SETTINGS)
    again = estimate_scales(0.1 * ratios, np.full(11, 0.03), SETTINGS)
    np.testing.assert_array_equal(found.log_scales, again.log_scales)
    back = estimate_scales(-0.1 * ratios[::-1], np.full(11, 0.03), SETTINGS)
    np.testing.assert_allclose(np.diff(back.log_scales)[::-1], -np.diff(found.log_scales), atol=1e-4)
