"""Scales of a chain of chunks, and how far chunks and seams spread, from the log-ratios of neighbours alone.

With x_k the log of chunk k's scale, c_k its distance from the value common to all, and r_k the log-ratio of seam k,

    r_k = x_(k+1) - x_k + n_k,    c_k ~ N(0, s_c^2),    n_k ~ N(0, (f q_k)^2),

r has the covariance S = s_c^2 D D^T + f^2 diag(q^2), D taking differences: 2 s_c^2 + (f q)^2 on the diagonal, -s_c^2
beside it. q_k is the error that seam k itself states. The two numbers s_c and f are those of greatest likelihood, with
a log-normal prior about 1 for f. Errors are drawn from t distributions, so that single wild seams or chunks decide
nothing: variances are divided by weights that follow from the errors (expectation maximisation).

Noise of seams and scales that drift away step by step look alike, but for q: seams are at most `max_noise_factor`
times noisier than they state, and what is beyond was made by the chunks. Their value is common only up to that drift:
of what seams say beyond c, the share 1 - (max_noise_factor / f)^2 is believed.

Given the spreads, generalised least squares has a closed form: with l = S^-1 r, c = s_c^2 D^T l and n = (f q)^2 l.
Where s_c = 0 all chunks have one scale (rigid seams); where f q = 0 every seam keeps its own (free Sim(3) seams). S is
tridiagonal, so everything takes time in proportion to the number of chunks.

Shapes: K chunks, K - 1 seams, G pairs of spreads that are tried. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.inference.alignment.settings import CommonScaleSettings

SMALLEST_STD, LARGEST_STD = 1e-5, 10.0  # of chunks' log-scales, as far as they are told from 0
NUM_TRIED = 25  # values of each spread in the first round
ROUNDS_OF_SEARCH, ROUNDS_OF_WEIGHTS = 4, 12
NUM_REFINED = 7  # values of each spread in later rounds
LEAST_FACTOR = 10.0  # seams are at most that much better than they state
SAME_WEIGHTS = 1e-3


@dataclass(frozen=True, eq=False)
class ScaleEstimate:
    """Log-scales of all chunks, and how well they are known.

    Attributes:
        chunk_std: s_c, the spread of chunks' log-scales about their common value.
        noise_factor: f, how many times noisier seams are than they state, drift of the chunks included.
        drift_share: of the latter in the square of that, in [0, 1).
        log_scales: [K] above that of chunk 0.
        drift: [K] the part of `log_scales` by which the common value itself moved, up to a constant.
        chunk_variances: [K] of scales about that, with the estimate's weights; never below what K seams cannot tell
            from 0.
        seam_variances: [K - 1] of the ratios' errors, likewise.
    """

    chunk_std: float
    noise_factor: float
    drift_share: float
    log_scales: np.ndarray
    drift: np.ndarray
    chunk_variances: np.ndarray
    seam_variances: np.ndarray


def estimate_scales(
    log_ratios: np.ndarray, stated_stds: np.ndarray, settings: CommonScaleSettings
) -> ScaleEstimate:
    """Return the scales of K >= 2 chunks.

    Args:
        log_ratios: [K - 1] of the seams, log s_(k+1) - log s_k.
        stated_stds: [K - 1] > 0, the errors of these that the seams state.
        settings: what is expected of both.
    """
    num, stated = len(log_ratios), np.square(stated_stds)
    chunk_weights, seam_weights = np.ones(num + 1), np.ones(num)
    for _ in range(ROUNDS_OF_WEIGHTS):
        std, factor = _likeliest(log_ratios, 1 / chunk_weights, stated / seam_weights, settings)
        of_chunks, of_seams = std**2 / chunk_weights, factor**2 * stated / seam_weights
        chunk_squares, seam_squares = _squares(log_ratios, of_chunks, of_seams)
        before = np.concatenate([chunk_weights, seam_weights])
        seam_weights = _t_weights(seam_squares / (factor**2 * stated), settings.freedom)
        seam_weights /= min(1.0, float(np.median(seam_weights)))  # most seams are not wild
        if std > 0:
            chunk_weights = _t_weights(chunk_squares / std**2, settings.freedom)
        if np.allclose(np.concatenate([chunk_weights, seam_weights]), before, rtol=SAME_WEIGHTS, atol=0):
            break
    share = 1 - min(1.0, settings.max_noise_factor / factor) ** 2
    deviation = scale_deviations(log_ratios, of_chunks, of_seams)
    steps = share * (log_ratios - np.diff(deviation))
    drift = np.concatenate([[0.0], np.cumsum(steps)])
    # Steps of the drift are known as well as the share is, and errors add up from the middle to both ends.
    unknown = np.concatenate([[0.0], np.cumsum(share * (1 - share) * of_seams)])
    return ScaleEstimate(
        std,
        factor,
        share,
        deviation - deviation[0] + drift,
        drift,
        np.maximum(of_chunks, np.median(of_seams) / (num + 1)) + abs(unknown - unknown[(num + 1) // 2]),
        (1 - share) * of_seams,
    )


def scale_deviations(
    log_ratios: np.ndarray, chunk_variances: np.ndarray, seam_variances: np.ndarray
) -> np.ndarray:
    """Return c [K], chunks' log-scales about their common value, by generalised least squares with known variances.

    Args:
        log_ratios: [K - 1].
        chunk_variances: [K] of c.
        seam_variances: [K - 1] of the ratios' errors; not both may be 0 at one seam.
    """
    return chunk_variances * _over_chunks(_solved(log_ratios, chunk_variances, seam_variances)[0])


def _t_weights(squares: np.ndarray, freedom: float) -> np.ndarray:
    """The weights of errors whose expected squares, in squared scales of their t distribution, are given."""
    return (freedom + 1) / (freedom + squares)


def _bands(chunk_variances: np.ndarray, seam_variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(diagonal [..., K - 1], the one beside it [..., K - 2]) of S."""
    diagonal = chunk_variances[..., 1:] + chunk_variances[..., :-1] + seam_variances
    return diagonal, -chunk_variances[..., 1:-1]


def _over_chunks(values: np.ndarray) -> np.ndarray:
    """D^T times values [K - 1]."""
    return np.concatenate([[0.0], values]) - np.concatenate([values, [0.0]])


def _solved(
    log_ratios: np.ndarray, chunk_variances: np.ndarray, seam_variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S^-1 r [K - 1], the diagonal of S^-1 [K - 1], the one beside it [K - 2]): S = L diag(d) L^T, by recursion."""
    diagonal, beside = _bands(chunk_variances, seam_variances)
    num = len(log_ratios)
    pivots, lower, right = diagonal.copy(), np.zeros(num), log_ratios.copy()
    for k in range(1, num):
        lower[k] = beside[k - 1] / pivots[k - 1]
        pivots[k] -= lower[k] * beside[k - 1]
        right[k] -= lower[k] * right[k - 1]
    solution, inverse, off = right / pivots, 1 / pivots, np.zeros(max(num - 1, 0))
    for k in range(num - 2, -1, -1):
        solution[k] -= lower[k + 1] * solution[k + 1]
        off[k] = -lower[k + 1] * inverse[k + 1]
        inverse[k] -= lower[k + 1] * off[k]
    return solution, inverse, off


def _squares(
    log_ratios: np.ndarray, chunk_variances: np.ndarray, seam_variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Expected c_k^2 [K] and n_k^2 [K - 1] given r: squares of means, and the variances that remain."""
    solution, inverse, off = _solved(log_ratios, chunk_variances, seam_variances)
    known = np.zeros(len(chunk_variances))  # the diagonal of D^T S^-1 D
    known[1:] += inverse
    known[:-1] += inverse
    known[1:-1] -= 2 * off
    chunks = np.square(chunk_variances * _over_chunks(solution))
    chunks += np.maximum(chunk_variances - np.square(chunk_variances) * known, 0)
    seams = np.square(seam_variances * solution)
    seams += np.maximum(seam_variances - np.square(seam_variances) * inverse, 0)
    return chunks, seams


def _likeliest(
    log_ratios: np.ndarray, chunk_units: np.ndarray, seam_units: np.ndarray, settings: CommonScaleSettings
) -> tuple[float, float]:
    """(s_c, f) of least cost, where variances are s_c^2 `chunk_units` and f^2 `seam_units`: a grid, made finer."""
    largest = np.log(LEAST_FACTOR + float(np.max(np.abs(log_ratios) / np.sqrt(seam_units))))
    limits = -np.log(LEAST_FACTOR), largest
    log_factor = np.linspace(limits[0], limits[1], NUM_TRIED)
    log_std = np.linspace(np.log(SMALLEST_STD), np.log(LARGEST_STD), 2 * NUM_TRIED)
    best = (0.0, 1.0)
    for _ in range(ROUNDS_OF_SEARCH):
        stds = np.concatenate([[0.0], np.exp(log_std)])
        std, factor = (part.ravel() for part in np.meshgrid(stds, np.exp(log_factor), indexing="ij"))
        costs = _costs(log_ratios, std, factor, chunk_units, seam_units, settings)
        least = int(costs.argmin())
        best = float(std[least]), float(factor[least])
        step_std, step_factor = log_std[1] - log_std[0], log_factor[1] - log_factor[0]
        centre = np.log(max(best[0], SMALLEST_STD))
        log_std = np.linspace(centre - step_std, centre + step_std, NUM_REFINED)
        low, high = np.clip(np.log(best[1]) + step_factor * np.array([-1, 1]), *limits)
        log_factor = np.linspace(low, high, NUM_REFINED)
    return best


def _costs(
    log_ratios: np.ndarray,
    std: np.ndarray,
    factor: np.ndarray,
    chunk_units: np.ndarray,
    seam_units: np.ndarray,
    settings: CommonScaleSettings,
) -> np.ndarray:
    """Minus twice the log of likelihood and prior, up to a constant, for G pairs of spreads."""
    squared_std, squared_factor = np.square(std), np.square(factor)
    cost = np.square(np.log(factor) / np.log(settings.usual_noise_factor))
    pivot, right = np.ones_like(std), np.zeros_like(std)
    for k, ratio in enumerate(log_ratios):
        diagonal = squared_std * (chunk_units[k] + chunk_units[k + 1]) + squared_factor * seam_units[k]
        beside = -squared_std * chunk_units[k] if k else 0.0
        lower = beside / pivot
        pivot, right = diagonal - lower * beside, ratio - lower * right
        cost = cost + np.log(pivot) + np.square(right) / pivot
    return cost
