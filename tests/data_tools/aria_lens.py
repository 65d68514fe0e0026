"""The lens of Aria's glasses, as its documentation writes it (FISHEYE624), and its inverse, for layout writers.

Checked against the authors' own numbers in tests/data/camera/test_camera_model.py.
"""

import numpy as np

LARGEST_ANGLE = 1.2


def project(angles: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Pixels [..., 2], centres at integers, of rays given by direction times angle from the axis [..., 2]."""
    f, centre, k, p, s = parameters[0], parameters[1:3], parameters[3:9], parameters[9:11], parameters[11:]
    angle = np.linalg.norm(angles, axis=-1, keepdims=True)
    bent = angles * (1 + sum(k[i] * angle ** (2 * i + 2) for i in range(6)))
    r2 = (bent**2).sum(-1, keepdims=True)
    tangential = 2 * bent * (bent @ p)[..., None] + r2 * p
    prism = np.concatenate([s[0] * r2 + s[1] * r2**2, s[2] * r2 + s[3] * r2**2], -1)
    return f * (bent + tangential + prism) + centre


def rays(parameters: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Directions [H, W, 3] with z = 1 of all pixels; angles beyond LARGEST_ANGLE are cut to it."""
    pixels = np.stack(np.meshgrid(np.arange(hw[1]), np.arange(hw[0])), -1).astype(float)
    angles = _cut((pixels - parameters[1:3]) / parameters[0])
    step = 1e-5
    for _ in range(30):  # Newton's method, derivatives by differences
        error = project(angles, parameters) - pixels
        columns = [
            (project(angles + delta, parameters) - project(angles - delta, parameters)) / (2 * step)
            for delta in step * np.eye(2)
        ]
        change = np.linalg.solve(np.stack(columns, -1), error[..., None])[..., 0]
        angles = _cut(angles - np.clip(change, -0.2, 0.2))
    angle = np.linalg.norm(angles, axis=-1, keepdims=True)
    plane = angles * np.where(angle > 1e-9, np.tan(angle) / np.maximum(angle, 1e-9), 1)
    return np.concatenate([plane, np.ones((*hw, 1))], -1)


def _cut(angles: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(angles, axis=-1, keepdims=True)
    return angles * np.minimum(1, LARGEST_ANGLE / np.maximum(angle, 1e-9))
