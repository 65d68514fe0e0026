"""Mistakes with a number in them: the factor between the lengths of poses and depth, and between focal lengths.

Both are measured from the evidence under a reading; whether they explain anything is judged afterwards like all else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scal3r_data_tools.checking.errors import Evidence, depths, triangulated
from scal3r_data_tools.checking.hypotheses import Hypothesis
from scal3r_data_tools.checking.reading import Reading
from scal3r_data_tools.checking.scores import Material, Scores, score
from scal3r_train.data.depth_codec import CODECS

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
