"""Pixels of two images that show the same point, found without knowing any camera.

SIFT, mutual best matches that pass the ratio test, then those that one fundamental matrix explains. How well it
explains them says how exact the matches are. Shapes: N matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CONTRAST = 0.02
RATIO = 0.8
SMALL_SIDE = 320  # smaller images are enlarged: SIFT finds little on few pixels
MAX_ENLARGED = 4
INLIER_PX = 1.5
MIN_MATCHES = 12


@dataclass(frozen=True)
class Features:
    """Points [N, 2] in pixels of the image, centres at half integers; unit descriptors [N, 128]; scale: pixels of the
    image per pixel that the detector saw.
    """

    points: np.ndarray
    descriptors: np.ndarray
    scale: float


@dataclass(frozen=True)
class Matches:
    """Pixels a [N, 2] and b [N, 2] and the places [N, 2] of both among the features; noise: median distance in pixels
    from the epipolar lines of the best fundamental matrix; displacement: median length in pixels of b - a.
    """

    a: np.ndarray
    b: np.ndarray
    places: np.ndarray
    noise: float
    displacement: float


def find_features(image: np.ndarray, max_side: int, max_features: int) -> Features:
    """Detect up to max_features SIFT features of an RGB image [H, W, 3] uint8, shrunk to max_side."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    side = max(grey.shape)
    factor = min(max_side / side, 1.0)
    if side < SMALL_SIDE:
        factor = min(SMALL_SIDE / side, MAX_ENLARGED)
    if factor != 1:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        size = round(grey.shape[1] * factor), round(grey.shape[0] * factor)
        resized = cv2.resize(grey, size, interpolation=method)
    else:
        resized = grey
    detector = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=max_features, contrastThreshold=CONTRAST, enable_precise_upscale=True
    )
    keypoints, descriptors = detector.detectAndCompute(resized, None)
    to_image = np.array([grey.shape[1] / resized.shape[1], grey.shape[0] / resized.shape[0]])
    if not keypoints:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), float(to_image[0]))
    points = (np.array([keypoint.pt for keypoint in keypoints]) + 0.5) * to_image
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return Features(points, root.astype(np.float32), float(to_image[0]))


def match_features(a: Features, b: Features, max_matches: int) -> Matches | None:
    """Match two images; None when fewer than MIN_MATCHES agree on a motion."""
    places = _mutual_matches(a.descriptors, b.descriptors)
    if len(places) < MIN_MATCHES:
        return None
    p, q = a.points[places[:, 0]], b.points[places[:, 1]]
    threshold = INLIER_PX * max(a.scale, b.scale)
    try:
        matrix, mask = cv2.findFundamentalMat(p, q, cv2.USAC_MAGSAC, threshold, 0.999, 2000)
    except cv2.error:  # OpenCV asserts where it finds no model
        return None
    if matrix is None or mask is None or matrix.shape != (3, 3):
        return None
    inside = mask.ravel().astype(bool)
    if inside.sum() < MIN_MATCHES:
        return None
    distance = _line_distance(matrix, p[inside], q[inside])
    kept = np.flatnonzero(inside)
    if len(kept) > max_matches:  # spread over the list, which is in no spatial order
        kept = kept[np.linspace(0, len(kept) - 1, max_matches).astype(int)]
    displacement = float(np.median(np.linalg.norm(q[inside] - p[inside], axis=1)))
    return Matches(p[kept], q[kept], places[kept], float(np.median(distance)), displacement)


def _mutual_matches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Places [N, 2] of descriptors that are each other's best and clearly better than the second best."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), int)
    similarity = a @ b.T
    rows = np.arange(len(a))
    best = similarity.argmax(1)
    is_mutual = similarity.argmax(0)[best] == rows
    first = similarity[rows, best]
    similarity[rows, best] = -1
    second = similarity.max(1)
    near, far = (np.sqrt(np.maximum(2 - 2 * value, 0)) for value in (first, second))
    chosen = np.flatnonzero(is_mutual & (near < RATIO * far))
    return np.stack([chosen, best[chosen]], -1)


def _line_distance(matrix: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Mean distance [N] in pixels of p and q from each other's epipolar lines."""
    p, q = (np.column_stack([points, np.ones(len(points))]) for points in (p, q))
    in_b, in_a = p @ matrix.T, q @ matrix
    product = np.abs((q * in_b).sum(1))
    norms = (np.maximum(np.hypot(line[:, 0], line[:, 1]), 1e-12) for line in (in_a, in_b))
    return sum(product / norm for norm in norms) / 2
