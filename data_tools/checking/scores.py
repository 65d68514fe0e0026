"""How well readings explain the evidence, and whether one explains it better than another. Shapes: P pairs.

Errors are compared pair by pair as logarithms of (error + noise): what lies below the noise of the matches counts for
nothing, and one spoilt pair cannot outweigh the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.checking.depth_warp import warp_errors
from scal3r_data_tools.checking.errors import Evidence, epipolar_errors, reprojection_errors
from scal3r_data_tools.checking.reading import Reading
from scal3r_data_tools.checking.views import DepthView

MIN_POINTS = 10
LEAST_NOISE = 0.05  # of a matched pixel, as a share of the image's long side / 640
DEPTH_NOISE = 3.0  # reprojected pixels are this much less exact than matched ones
WARP_NOISE = 1e-3
WARP_POINTS = 300
KINDS = ("epipolar", "reprojection", "warp")


@dataclass(frozen=True)
class Material:
    """What readings are judged by: matches, and depth maps with the pairs of them that are warped."""

    evidence: Evidence
    views: dict[int, DepthView]
    warp_pairs: list[tuple[int, int]]


@dataclass(frozen=True)
class Comparison:
    """One reading against another by one kind of error: ratio of the errors (below 1: better), the standard error of
    its logarithm, and the number of pairs.
    """

    ratio: float
    log_error: float
    num_pairs: int


Scores = dict[str, np.ndarray]


def score(reading: Reading, material: Material, *, with_warp: bool = True) -> Scores:
    """Errors [P] of each kind, NaN where a pair says nothing; pixels, pixels, relative depth."""
    evidence = material.evidence
    found = {"epipolar": pair_medians(epipolar_errors(reading, evidence))}
    if evidence.has_depth:
        found["reprojection"] = pair_medians(reprojection_errors(reading, evidence))
    if with_warp and material.warp_pairs:
        found["warp"] = warp_errors(reading, material.views, material.warp_pairs, WARP_POINTS)
    return found


def noise(given: Reading, material: Material) -> Scores:
    """Errors [P] that a perfect reading would have."""
    evidence = material.evidence
    side = given.image_size[evidence.pairs[:, 0]].max(-1)
    pixels = evidence.noise + LEAST_NOISE * np.maximum(side / 640, 0.5)
    return {
        "epipolar": pixels,
        "reprojection": DEPTH_NOISE * pixels,
        "warp": np.full(len(material.warp_pairs), WARP_NOISE),
    }


def compare(other: Scores, given: Scores, level: Scores) -> dict[str, Comparison]:
    """Compare two readings by every kind of error both know."""
    found = {}
    for kind in other:
        if kind not in given:
            continue
        logs = np.log((other[kind] + level[kind]) / (given[kind] + level[kind]))
        logs = logs[np.isfinite(logs)]
        if len(logs) == 0:
            continue
        spread = float(logs.std(ddof=1)) if len(logs) > 1 else 1.0
        found[kind] = Comparison(float(np.exp(logs.mean())), spread / len(logs) ** 0.5, len(logs))
    return found


def typical(errors: np.ndarray) -> float:
    """Geometric mean over pairs, NaN when none says anything."""
    known = errors[np.isfinite(errors)]
    return float(np.exp(np.log(np.maximum(known, 1e-12)).mean())) if len(known) else float("nan")


def middle(errors: np.ndarray) -> float:
    """Median over pairs, NaN when none says anything."""
    known = errors[np.isfinite(errors)]
    return float(np.median(known)) if len(known) else float("nan")


def pair_medians(errors: np.ndarray) -> np.ndarray:
    """Median [P] over the matches of a pair, NaN with fewer than MIN_POINTS."""
    if errors.size == 0:
        return np.zeros(len(errors))
    ordered = np.sort(errors, axis=-1)  # NaN comes last; numpy's nanmedian takes ten times as long
    num = np.isfinite(errors).sum(-1)
    low, high = np.maximum(num - 1, 0) // 2, np.maximum(num, 1) // 2
    rows = np.arange(len(errors))
    high = np.minimum(high, errors.shape[-1] - 1)
    return np.where(num >= MIN_POINTS, (ordered[rows, low] + ordered[rows, high]) / 2, np.nan)
