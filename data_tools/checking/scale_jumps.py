"""Does the scale of the poses stay the same along a sequence? Maps that were joined or drifted jump or creep.

With depth, each pair of frames tells its own factor between translations and depth; without, only steps that are
suddenly many times as long can be seen. Shapes: S frames, P pairs.
"""

from __future__ import annotations

import numpy as np

from scal3r_data_tools.checking.errors import Evidence
from scal3r_data_tools.checking.fits import length_factors
from scal3r_data_tools.checking.reading import Reading

MIN_SIDE = 2
MIN_JUMP = 1.3
SIGNIFICANT = 6.0
WINDOW = 10
MANY_TIMES = 20.0


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
    if len(steps) < WINDOW:
        return ""
    around = np.array([np.median(steps[max(i - WINDOW, 0) : i + WINDOW + 1]) for i in range(len(steps))])
    ratio = steps / np.maximum(around, max(float(np.median(steps)) * 0.1, 1e-12))
    place = int(ratio.argmax())
    if ratio[place] < MANY_TIMES:
        return ""
    return (
        f"the camera jumps between frames {place} and {place + 1}: a step of {steps[place]:.3g}, those around it are "
        f"{around[place]:.3g}; are they one sequence?"
    )
