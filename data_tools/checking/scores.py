"""How well a reading explains the evidence: pixels between matches and where it puts them, and which of two is better.

Without depth: the distance of a pixel from the part of its epipolar line that shows points in front of both cameras
(so that a reversed translation is wrong although its epipolar lines are right). With depth: the distance from the
projection of the other image's point. Both are taken in both directions. Two readings are compared pair by pair by
logarithms of (error + noise): what lies below the noise of the matches counts for nothing, and one spoilt pair cannot
outweigh the others. Shapes: P pairs, N matches of each (NaN where a pair has fewer).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.checking.depth_warp import DepthView, warp_errors
from scal3r_data_tools.checking.readings import Reading, rays, relative_poses, z_coordinates

TINY = 1e-12
MIN_MATCHES = 10
LEAST_NOISE = 0.05  # of a matched pixel, as a share of the image's long side / 640
DEPTH_NOISE = 3.0  # reprojected pixels are this much less exact than matched ones
WARP_NOISE = 1e-3
WARP_POINTS = 300
KINDS = ("epipolar", "reprojection", "warp")
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """Matches of pairs of frames, padded with NaN.

    pairs [P, 2] frames; pixels [2, P, N, 2] in a and in b; depths: numbers of the depth maps there [2, P, N] by how the
    map is flipped, NaN where there is none or none that is smooth; noise [P]: pixels, how exact the matches are;
    displacement [P]: pixels, median; places [P, N, 2]: which features of a and b, -1 for none.
    """

    pairs: np.ndarray
    pixels: np.ndarray
    depths: dict[str, np.ndarray]
    noise: np.ndarray
    displacement: np.ndarray
    places: np.ndarray

    @property
    def num_pairs(self) -> int:
        """P."""
        return len(self.pairs)

    @property
    def has_depth(self) -> bool:
        """Whether any match has a depth."""
        return bool(np.isfinite(self.depths[""]).any())


@dataclass(frozen=True)
class _HalfLine:
    """All [P, N]: pixels from the half line; rho of its nearest point, NaN without one; pixels from its far end."""

    distance: np.ndarray
    inverse_depth: np.ndarray
    from_infinity: np.ndarray


def epipolar_errors(reading: Reading, evidence: Evidence) -> np.ndarray:
    """Pixels [P, N], mean of both directions."""
    rotation, translation = relative_poses(reading, evidence.pairs)
    back, back_translation = _inverse(rotation, translation)
    k_a, k_b = (reading.intrinsics[evidence.pairs[:, side], None] for side in (0, 1))
    limits = np.linalg.norm(reading.image_size[evidence.pairs], axis=-1)
    p, q = evidence.pixels
    forward = _half_line(rotation, translation, rays(p, k_a), q, k_b, limits[:, 1])
    backward = _half_line(back, back_translation, rays(q, k_b), p, k_a, limits[:, 0])
    return (forward.distance + backward.distance) / 2


def triangulated(reading: Reading, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """1 / z [P, N] of matches in a from the reading's poses, NaN where they meet behind a camera; and the parallax
    [P, N]: pixels in b from where the point would be at infinity.
    """
    rotation, translation = relative_poses(reading, evidence.pairs)
    k_a, k_b = (reading.intrinsics[evidence.pairs[:, side], None] for side in (0, 1))
    limits = np.linalg.norm(reading.image_size[evidence.pairs], axis=-1)
    p, q = evidence.pixels
    found = _half_line(rotation, translation, rays(p, k_a), q, k_b, limits[:, 1])
    return found.inverse_depth, found.from_infinity


def reprojection_vectors(reading: Reading, evidence: Evidence) -> np.ndarray:
    """Pixels [2, P, N, 2] from where a match is to where the depth of the other image puts it; [0] in b, [1] in a.

    NaN without depth, infinite behind the camera.
    """
    rotation, translation = relative_poses(reading, evidence.pairs)
    back, back_translation = _inverse(rotation, translation)
    k_a, k_b = (reading.intrinsics[evidence.pairs[:, side], None] for side in (0, 1))
    z = depths(reading, evidence)
    p, q = evidence.pixels
    forward = _projected(rotation, translation, rays(p, k_a) * z[0, ..., None], k_b) - q
    backward = _projected(back, back_translation, rays(q, k_b) * z[1, ..., None], k_a) - p
    return np.stack([forward, backward])


def reprojection_errors(reading: Reading, evidence: Evidence) -> np.ndarray:
    """Pixels [P, 2 N] of both directions, cut at the image's diagonal; NaN without depth."""
    limits = np.linalg.norm(reading.image_size[evidence.pairs[:, 1]], axis=-1)
    length = np.linalg.norm(reprojection_vectors(reading, evidence), axis=-1)
    length = np.minimum(length, limits[:, None])  # keeps NaN
    return np.concatenate([length[0], length[1]], -1)


def depths(reading: Reading, evidence: Evidence) -> np.ndarray:
    """Z coordinates [2, P, N] of the matches in a and b."""
    values = evidence.depths[reading.depth.flip]
    return np.stack(
        [
            z_coordinates(reading, evidence.pairs[:, side], values[side], evidence.pixels[side])
            for side in (0, 1)
        ]
    )


def _inverse(rotation: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    back = rotation.swapaxes(1, 2)
    return back, -np.einsum("pij,pj->pi", back, translation)


def _projected(
    rotation: np.ndarray, translation: np.ndarray, points: np.ndarray, k: np.ndarray
) -> np.ndarray:
    """Pixels [P, N, 2] of points [P, N, 3] in the other camera, infinite behind it."""
    moved = points @ rotation.swapaxes(1, 2) + translation[:, None]
    z = moved[..., 2:]
    pixels = moved[..., :2] / np.where(np.abs(z) > TINY, z, TINY) * k[..., :2] + k[..., 2:]
    return np.where(z <= TINY, np.inf, pixels)  # NaN is not <=


def _half_line(
    rotation: np.ndarray,
    translation: np.ndarray,
    directions: np.ndarray,
    pixels: np.ndarray,
    k: np.ndarray,
    limits: np.ndarray,
) -> _HalfLine:
    """Compare pixels with the images of the points directions / rho, rho >= 0.

    limits [P]: the distance where none of the ray is in front of the camera.
    """
    scale = np.concatenate([k[..., :2], np.ones_like(k[..., :1])], -1)  # [P, 1, 3]
    far = (directions @ rotation.swapaxes(1, 2)) * scale
    near = translation[:, None] * scale
    q = pixels - k[..., 2:]
    line = np.cross(far, near)
    norm2 = (line[..., :2] ** 2).sum(-1)
    is_point = norm2 < TINY * (far**2).sum(-1) * np.maximum((near**2).sum(-1), TINY)
    offset = ((line[..., :2] * q).sum(-1) + line[..., 2]) / np.where(is_point, 1, norm2)
    foot = q - offset[..., None] * line[..., :2]
    across = far[..., :2] - foot * far[..., 2:]
    along = foot * near[..., 2:] - near[..., :2]
    rho = (across * along).sum(-1) / np.maximum((along**2).sum(-1), TINY)
    is_seen = ~is_point & (rho >= 0) & (far[..., 2] + rho * near[..., 2] > 0)
    z = np.where(far[..., 2] > TINY, far[..., 2], 1)
    at_infinity = np.where(
        far[..., 2] > TINY, np.linalg.norm(q - far[..., :2] / z[..., None], axis=-1), np.inf
    )
    distance = np.where(is_seen, np.abs(offset) * np.sqrt(norm2), at_infinity)
    is_unknown = np.isnan(q[..., 0] + far[..., 0] + near[..., 0])
    distance = np.where(is_unknown, np.nan, np.minimum(distance, limits[:, None]))
    return _HalfLine(distance, np.where(is_seen, rho, np.nan), at_infinity)


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
    """Median [P] over the matches of a pair, NaN with fewer than MIN_MATCHES."""
    if errors.size == 0:
        return np.zeros(len(errors))
    ordered = np.sort(errors, axis=-1)  # NaN comes last; numpy's nanmedian takes ten times as long
    num = np.isfinite(errors).sum(-1)
    low, high = np.maximum(num - 1, 0) // 2, np.maximum(num, 1) // 2
    rows = np.arange(len(errors))
    high = np.minimum(high, errors.shape[-1] - 1)
    return np.where(num >= MIN_MATCHES, (ordered[rows, low] + ordered[rows, high]) / 2, np.nan)
