"""Fits of mistakes with a number in them: scale, focal length, zoom, jumps of scale, principal point.

Each is measured from the evidence under a reading; whether it explains anything is judged afterwards like all else.

- The factor between the lengths of poses and depth, and the one between focal lengths.
- Zoom: one set of intrinsics for all frames, although the camera zooms. Each pair is fitted by itself (two factors),
  then the factors are smoothed over time, since lenses zoom smoothly; so noise of single pairs explains nothing.
- Scale jumps: maps that were joined or drifted jump or creep along a sequence. With depth, each pair of frames has
  its own factor between translations and depth; without, only steps that are suddenly many times as long can be seen.
- Pixel centres half a pixel off, only where poses, depth and pixels are exact enough. A shift of the principal point
  of all cameras moves reprojected pixels a little, wherever the camera turned or came nearer. The shift that fits best
  is measured over all matches; how much it differs between groups of pairs says how well it is known.

Shapes: S frames, P pairs, G trial factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scal3r_data_tools.checking.readings import Hypothesis, Reading
from scal3r_data_tools.checking.scores import (
    Evidence,
    Material,
    Scores,
    depths,
    epipolar_errors,
    pair_medians,
    reprojection_errors,
    reprojection_vectors,
    score,
    triangulated,
)
from scal3r_train.data.io.depth_codec import CODECS

MIN_PARALLAX = 4.0  # of the noise: below, a triangulated depth says nothing
MIN_MATCHES = 6
SAME_FACTOR = 0.03
SAME_FOCAL = 0.02
USUAL_FACTORS = (1000.0, 100.0, 10.0, 5.0, 4.0, 2.0, 1 / 0.3048)
USUAL_TOLERANCE = 0.11  # sensors measure depth no better than that
FOCAL_FACTORS = np.exp(np.linspace(np.log(0.35), np.log(2.9), 40))
REFINEMENTS = 2
FOCAL_KINDS = {  # which of fx fy cx cy are multiplied
    "focal": (1, 1, 0, 0),
    "image_size": (1, 1, 1, 1),
    "focal_x": (1, 0, 0, 0),
    "focal_y": (0, 1, 0, 0),
}
WIDTHS = (0.45, 0.15, 0.05)  # logarithms of the widest trial factor, round by round
NUM_TRIALS = 7
MIN_SPREAD = 1.05
MIN_SHARPNESS = 0.1
PAIRS_AROUND = 3
MIN_ZOOM_PAIRS = 6
ZOOM = "shared_intrinsics"
MIN_SIDE = 2
MIN_JUMP = 1.3
SIGNIFICANT = 6.0
STEPS_AROUND = 10
MANY_TIMES = 20.0
STEP_PX = 0.1
OUTLIER = 3.0
KNOWN_PX = 0.15
HALF = 0.5
TOLERANCE = 0.2
MIN_EXACT_PAIRS = 6
NUM_ROUNDS = 4


def length_factors(reading: Reading, evidence: Evidence) -> np.ndarray:
    """By which translations must be multiplied to fit the depth, for each pair [P]; NaN where it cannot be told."""
    inverse_z, parallax = triangulated(reading, evidence)
    factor = inverse_z * depths(reading, evidence)[0]
    usable = np.isfinite(factor) & (factor > 0) & (parallax > MIN_PARALLAX * (evidence.noise + 0.1)[:, None])
    rows = [row[use] for row, use in zip(factor, usable, strict=True)]
    return np.array([np.median(row) if len(row) >= MIN_MATCHES else np.nan for row in rows])


def length_hypothesis(
    reading: Reading, evidence: Evidence, codec: str, base: Hypothesis | None = None
) -> Hypothesis | None:
    """Return the reading `base` with the factor that fits, None when the lengths fit or it cannot be told."""
    factors = length_factors(reading, evidence)
    factors = factors[np.isfinite(factors)]
    if len(factors) < 3:
        return None
    factor = float(np.exp(np.median(np.log(factors))))
    if abs(np.log(factor)) < SAME_FACTOR:
        return None
    text = length_text(factor, codec)
    if base is None:
        return Hypothesis("unit", text, 1, lambda given: given.with_translations_times(factor))
    return Hypothesis(
        f"{base.key}+unit",
        f"{base.text}; {text}",
        base.cost + 1,
        lambda given: base.apply(given).with_translations_times(factor),
    )


def length_text(factor: float, codec: str) -> str:
    """Name a factor by which translations would have to be multiplied to fit the depth."""
    usual = next(
        (f"{value:g}" for value in USUAL_FACTORS if abs(np.log(factor / value)) < USUAL_TOLERANCE), None
    ) or next(
        (f"1/{value:g}" for value in USUAL_FACTORS if abs(np.log(factor * value)) < USUAL_TOLERANCE), None
    )
    text = (
        f"wrong unit of depth or poses: they fit with translations times {usual or f'{factor:.3g}'} "
        f"(or depth times {1 / factor:.3g})"
    )
    if codec in CODECS:
        rule = CODECS[codec]
        others = [
            name
            for name, other in CODECS.items()
            if other.container == rule.container
            and other.is_ray_length == rule.is_ray_length
            and abs(np.log(other.unit / rule.unit * factor)) < SAME_FACTOR
        ]
        if others:
            text += f"; depth codec {others[0]} instead of {codec} would do"
    return text


def focal_hypotheses(reading: Reading, material: Material, level: Scores) -> list[Hypothesis]:
    """Return the readings with all focal lengths, or all intrinsics, multiplied by the factor that fits best."""
    found = []
    for key, columns in FOCAL_KINDS.items():
        power = np.array(columns, float)

        def scaled(start: Reading, factor: float, power: np.ndarray = power) -> Reading:
            return start.with_intrinsics(start.intrinsics * factor**power)

        def badness(factor: float) -> float:
            scores = score(scaled(reading, factor), material, with_warp=not material.evidence.num_pairs)
            return sum(
                float(np.nanmean(np.log(np.append(values + level[kind], 1.0))))
                for kind, values in scores.items()
            )

        factor = _lowest(badness)
        if abs(np.log(factor)) < SAME_FOCAL:
            continue
        found.append(
            Hypothesis(
                key, _focal_text(key, factor), 1, lambda given, f=factor, scaled=scaled: scaled(given, f)
            )
        )
    return found


def _lowest(badness: Callable[[float], float]) -> float:
    """Where a function of the factor is lowest: on a grid first, then ever finer around its best."""
    grid = FOCAL_FACTORS
    for _ in range(REFINEMENTS):
        values = [badness(float(factor)) for factor in grid]
        best = int(np.argmin(values))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        grid = np.exp(np.linspace(np.log(low), np.log(high), 9))
    return float(grid[int(np.argmin([badness(float(factor)) for factor in grid]))])


def _focal_text(key: str, factor: float) -> str:
    if key == "image_size":
        return f"the intrinsics belong to images of {1 / factor:.3g} times the size"
    kind, times = ("long", 1 / factor) if factor < 1 else ("short", factor)
    names = {"focal": "the focal lengths are", "focal_x": "fx (not fy) is", "focal_y": "fy (not fx) is"}
    return f"{names[key]} about {times:.3g} times too {kind}"


def zoom_hypothesis(reading: Reading, evidence: Evidence, level: Scores) -> Hypothesis | None:
    """Return the reading with a focal length for each frame, None when frames differ anyway or too little."""
    shared = np.ptp(reading.intrinsics, axis=0).max() < 1e-6 * reading.intrinsics.max()
    if not shared or evidence.num_pairs < MIN_ZOOM_PAIRS:
        return None
    logs, weights = _fit_pairs(reading, evidence, level)
    frames, places = np.unique(evidence.pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    found = np.array(
        [_weighted_median(logs[places == row], weights[places == row]) for row in range(len(frames))]
    )
    trust = np.array([weights[places == row].sum() for row in range(len(frames))])
    keep = np.isfinite(found) & (trust > MIN_SHARPNESS)
    if keep.sum() < MIN_ZOOM_PAIRS:
        return None
    frames, found, trust = frames[keep], found[keep], trust[keep]
    smooth = np.array(
        [
            _weighted_median(
                found[max(i - PAIRS_AROUND, 0) : i + PAIRS_AROUND + 1],
                trust[max(i - PAIRS_AROUND, 0) : i + PAIRS_AROUND + 1],
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


def scale_jump(reading: Reading, evidence: Evidence) -> str:
    """Describe the largest jump of the factor between translations and depth, "" without one."""
    if not evidence.has_depth:
        return ""
    factors = length_factors(reading, evidence)
    known = np.isfinite(factors)
    starts = np.unique(
        evidence.pairs[known, 0]
    )  # pairs with the same first frame share its depth: one voice each
    logs = np.array([np.median(np.log(factors[known & (evidence.pairs[:, 0] == start)])) for start in starts])
    splits = range(MIN_SIDE, len(logs) - MIN_SIDE + 1)
    if not splits:
        return ""
    sides = {i: (float(np.median(logs[:i])), float(np.median(logs[i:]))) for i in splits}
    misfit = {
        i: float(np.abs(logs[:i] - left).sum() + np.abs(logs[i:] - right).sum())
        for i, (left, right) in sides.items()
    }
    split = min(misfit, key=lambda i: misfit[i])
    left, right = sides[split]
    deviation = 1.25 * misfit[split] / (len(logs) - 2) * np.sqrt(1 / split + 1 / (len(logs) - split))
    if abs(left - right) < max(np.log(MIN_JUMP), SIGNIFICANT * deviation):
        return ""
    return (
        f"the scale of the translations jumps between frames {starts[split - 1]} and {starts[split]}: to fit the depth "
        f"they need a factor of {np.exp(left):.3g} before, {np.exp(right):.3g} after"
    )


def position_jump(reading: Reading) -> str:
    """Describe the longest step when it is MANY_TIMES as long as those around it, "" without one."""
    rotation, translation = reading.extrinsics[..., :3], reading.extrinsics[..., 3]
    position = -np.einsum("sji,sj->si", rotation, translation)
    steps = np.linalg.norm(np.diff(position, axis=0), axis=1)
    if len(steps) < STEPS_AROUND:
        return ""
    around = np.array(
        [np.median(steps[max(i - STEPS_AROUND, 0) : i + STEPS_AROUND + 1]) for i in range(len(steps))]
    )
    ratio = steps / np.maximum(around, max(float(np.median(steps)) * 0.1, 1e-12))
    place = int(ratio.argmax())
    if ratio[place] < MANY_TIMES:
        return ""
    return (
        f"the camera jumps between frames {place} and {place + 1}: a step of {steps[place]:.3g}, those around it are "
        f"{around[place]:.3g}; are they one sequence?"
    )


@dataclass(frozen=True)
class PrincipalShift:
    """By how many pixels [2] x and y the principal points should be moved, and the standard error [2]."""

    shift: np.ndarray
    standard_error: np.ndarray

    @property
    def is_known(self) -> bool:
        """Whether half a pixel could be seen."""
        return bool((self.standard_error < KNOWN_PX).all())


def measure_shift(reading: Reading, evidence: Evidence) -> PrincipalShift | None:
    """Measure the shift; None without depth or with too few pairs."""
    if not evidence.has_depth:
        return None
    total = np.zeros(2)
    for _ in range(NUM_ROUNDS):
        matrix, vector = _normal_equations(_moved(reading, total), evidence)
        usable = np.trace(matrix, axis1=1, axis2=2) > 0
        if usable.sum() < MIN_EXACT_PAIRS:
            return None
        matrix, vector = matrix[usable], vector[usable]
        if np.linalg.cond(matrix.sum(0)) > 1e6:
            return None
        total = total + np.linalg.solve(matrix.sum(0), vector.sum(0))
    left_out = np.stack(
        [
            np.linalg.solve(matrix.sum(0) - matrix[row], vector.sum(0) - vector[row])
            for row in range(len(matrix))
        ]
    )
    num = len(matrix)
    error = np.sqrt((num - 1) / num * ((left_out - left_out.mean(0)) ** 2).sum(0))
    return PrincipalShift(total, error)


def half_pixel_hypothesis(found: PrincipalShift) -> Hypothesis | None:
    """Return the mistake when the shift is about half a pixel along both axes and well known."""
    if not found.is_known:
        return None
    sign = np.sign(found.shift)
    away = np.abs(found.shift - HALF * sign)
    if sign[0] != sign[1] or (away > TOLERANCE).any():
        return None
    rule = ("integers", "half integers") if sign[0] > 0 else ("half integers", "integers")
    shift = HALF * sign
    return Hypothesis(
        "half_pixel",
        f"the principal point is half a pixel off: pixel centres are at {rule[0]}, not {rule[1]}",
        1,
        lambda given: _moved(given, shift),
    )


def _moved(reading: Reading, shift: np.ndarray) -> Reading:
    return reading.with_intrinsics(reading.intrinsics + np.concatenate([[0, 0], shift]))


def _normal_equations(reading: Reading, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [P, 2, 2] and right side [P, 2] of the least squares fit of each pair."""
    vectors = _finite(reprojection_vectors(reading, evidence))
    columns = [
        (_finite(reprojection_vectors(_moved(reading, step), evidence)) - vectors) / STEP_PX
        for step in np.eye(2) * STEP_PX
    ]
    jacobian = np.stack(columns, -1)  # [2, P, N, 2, 2]
    length = np.linalg.norm(vectors, axis=-1)
    limit = OUTLIER * 2 * (evidence.noise + 0.05)[:, None]
    usable = np.isfinite(vectors).all(-1) & np.isfinite(jacobian).all((-1, -2)) & (length < limit)
    jacobian = np.where(usable[..., None, None], jacobian, 0)
    vectors = np.where(usable[..., None], vectors, 0)
    matrix = np.einsum("spnij,spnik->pjk", jacobian, jacobian)
    return matrix, -np.einsum("spnij,spni->pj", jacobian, vectors)


def _finite(vectors: np.ndarray) -> np.ndarray:
    """NaN for points behind the camera."""
    return np.where(np.isfinite(vectors), vectors, np.nan)
