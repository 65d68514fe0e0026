"""One set of intrinsics for all frames, although the camera zooms? Fits a focal factor to each frame of the pairs.

Each pair is fitted by itself (two factors), then the factors are smoothed over time, since lenses zoom smoothly; so
noise of single pairs explains nothing. Shapes: S frames, P pairs, G trial factors.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scal3r_data_tools.checking.errors import Evidence, epipolar_errors, reprojection_errors
from scal3r_data_tools.checking.hypotheses import Hypothesis
from scal3r_data_tools.checking.reading import Reading
from scal3r_data_tools.checking.scores import Scores, pair_medians

WIDTHS = (0.45, 0.15, 0.05)  # logarithms of the widest trial factor, round by round
NUM_TRIALS = 7
MIN_SPREAD = 1.05
MIN_SHARPNESS = 0.1
WINDOW = 3
MIN_PAIRS = 6
ZOOM = "shared_intrinsics"


def zoom_hypothesis(reading: Reading, evidence: Evidence, level: Scores) -> Hypothesis | None:
    """Return the reading with a focal length for each frame, None when frames differ anyway or too little."""
    shared = np.ptp(reading.intrinsics, axis=0).max() < 1e-6 * reading.intrinsics.max()
    if not shared or evidence.num_pairs < MIN_PAIRS:
        return None
    logs, weights = _fit_pairs(reading, evidence, level)
    frames, places = np.unique(evidence.pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    found = np.array(
        [_weighted_median(logs[places == row], weights[places == row]) for row in range(len(frames))]
    )
    trust = np.array([weights[places == row].sum() for row in range(len(frames))])
    keep = np.isfinite(found) & (trust > MIN_SHARPNESS)
    if keep.sum() < MIN_PAIRS:
        return None
    frames, found, trust = frames[keep], found[keep], trust[keep]
    smooth = np.array(
        [
            _weighted_median(
                found[max(i - WINDOW, 0) : i + WINDOW + 1], trust[max(i - WINDOW, 0) : i + WINDOW + 1]
            )
            for i in range(len(frames))
        ]
    )
    smooth = np.convolve(np.pad(smooth, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    low, high = np.exp(np.quantile(smooth, [0.1, 0.9]))
    if high / low < MIN_SPREAD:
        return None
    factors = np.exp(np.interp(np.arange(len(reading.intrinsics)), frames, smooth))[:, None]
    columns = np.array([1, 1, 0, 0])
    focal = reading.intrinsics[0, 0]
    return Hypothesis(
        ZOOM,
        f"one focal length ({focal:.4g}) is given for all frames, but it changes, from about {low * focal:.3g} to "
        f"{high * focal:.3g}: the camera zooms",
        1,
        lambda given: given.with_intrinsics(given.intrinsics * factors**columns),
    )


def _fit_pairs(reading: Reading, evidence: Evidence, level: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the best focal factors [P, 2] of each pair, and how sharply each is determined [P, 2]."""
    num = evidence.num_pairs
    first, second = evidence.pairs.T
    # a frame of its own for each side of each pair
    both = Reading(
        np.concatenate([reading.extrinsics[first], reading.extrinsics[second]]),
        np.concatenate([reading.intrinsics[first], reading.intrinsics[second]]),
        np.concatenate([reading.image_size[first], reading.image_size[second]]),
        reading.depth,
        None if reading.length_intrinsics is None else reading.length_intrinsics[evidence.pairs.T.ravel()],
    )
    alone = replace(evidence, pairs=np.stack([np.arange(num), np.arange(num) + num], -1))
    centre = np.zeros((num, 2))
    rows = np.arange(num)
    table = np.zeros((1, 1, num))
    for width in WIDTHS:
        trials = np.linspace(-width, width, NUM_TRIALS)
        table = np.stack(
            [[_badness(both, alone, level, centre + [left, right]) for right in trials] for left in trials]
        )
        best = table.reshape(-1, num).argmin(0)
        at = np.stack(np.unravel_index(best, (NUM_TRIALS, NUM_TRIALS)), -1)
        centre = centre + trials[at]
    lowest = table.reshape(-1, num).min(0)
    sharpness = []
    for side in (0, 1):
        change = np.eye(2)[side] * WIDTHS[1] / 3
        moved = [_badness(both, alone, level, centre + sign * change) for sign in (-1, 1)]
        sharpness.append(np.maximum(np.minimum(*moved) - lowest, 0))
    known = np.isfinite(lowest[rows])[:, None]
    return np.where(known, centre, np.nan), np.where(known, np.stack(sharpness, -1), 0)


def _badness(both: Reading, alone: Evidence, level: Scores, logs: np.ndarray) -> np.ndarray:
    """Sum over kinds of the logarithm of the error [P] with focal factors exp(logs [P, 2]); inf when unknown."""
    factors = np.exp(np.concatenate([logs[:, 0], logs[:, 1]]))[:, None] ** np.array([1, 1, 0, 0])
    trial = both.with_intrinsics(both.intrinsics * factors)
    total = np.log(pair_medians(epipolar_errors(trial, alone)) + level["epipolar"])
    if alone.has_depth:
        with_depth = np.log(pair_medians(reprojection_errors(trial, alone)) + level["reprojection"])
        total = total + np.where(np.isfinite(with_depth), with_depth, 0)
    return np.where(np.isfinite(total), total, np.inf)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    known = np.isfinite(values)
    values, weights = values[known], weights[known] + 1e-9
    if len(values) == 0:
        return float("nan")
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(share, 0.5)])
