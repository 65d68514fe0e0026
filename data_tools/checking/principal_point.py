"""Are pixel centres half a pixel off? Only where poses, depth and pixels are exact enough to tell.

A shift of the principal point of all cameras moves reprojected pixels a little, wherever the camera turned or came
nearer. The shift that fits best is measured over all matches; how much it differs between groups of pairs says how
well it is known. Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.checking.errors import Evidence, reprojection_vectors
from scal3r_data_tools.checking.hypotheses import Hypothesis
from scal3r_data_tools.checking.reading import Reading

STEP_PX = 0.1
OUTLIER = 3.0
KNOWN_PX = 0.15
HALF = 0.5
TOLERANCE = 0.2
MIN_PAIRS = 6
NUM_ROUNDS = 4


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
        if usable.sum() < MIN_PAIRS:
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
