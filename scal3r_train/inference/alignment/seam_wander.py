"""How much the parts of an overlap disagree on the seam: the only error of a network that its own output shows.

The shared points of a seam are cut into four pieces in the order of their frames, and each piece is fitted alone. If
pixels err independently, all pieces differ by the same small amount, however far apart they are. If a chunk is bent, or
its depths are too long for its cameras, pieces differ more the further apart they are; such errors add up along a
chunk and are what a long chain drifts by. And if all pieces together differ from the whole overlap's fit, then the
points do not fit one similarity: a bent path that pans over a room is a longer arc, which the whole takes for a larger
scale, and the pieces less so. `run_noise.py` reads all three from the seams of a run. What all chunks do alike no seam
can show.

Shapes: N correspondences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.geometry.sim3_fit import fit_weighted, spread

PIECES = 4
ROUNDS = 5
LEAST_POINTS = 12  # of a piece


@dataclass(frozen=True)
class Wander:
    """How the fits of the pieces differ, in coordinates whose origin is the middle of all points and unit their spread.

    Attributes:
        misfit: tangent (translation, rotation, log scale) of the pieces' mean seen from the whole, 7 numbers.
        apart: for pieces 1, 2 and 3 places apart the rms of one component of translation, of rotation in radians, and
            of log scale.
    """

    misfit: tuple[float, ...]
    apart: tuple[tuple[float, float, float], ...]


def seam_wander(
    earlier_from_later: Sim3, earlier: Tensor, later: Tensor, weights: Tensor, num_frames: int
) -> Wander | None:
    """Return how the pieces differ; None where that cannot be seen.

    That is, where the overlap has fewer frames than pieces, or a piece fewer than a dozen points or no extent.

    Args:
        earlier_from_later: the seam, for which residuals are small.
        earlier, later: points [N, 3] in either chunk's coordinates, by frame.
        weights: [N] of the points, before their residuals are looked at.
        num_frames: that the points come from.
    """
    if num_frames < PIECES or len(later) < PIECES * LEAST_POINTS:
        return None
    middle, size = later.median(dim=0).values, spread(later)
    bounds = [len(later) * piece // PIECES for piece in range(PIECES + 1)]
    pieces = [slice(*bound) for bound in zip(bounds, bounds[1:], strict=False)]
    if min(float(spread(points[piece])) for points in (earlier, later) for piece in pieces) <= 0:
        return None
    unit_from_later = Sim3(1 / size, torch.eye(3, dtype=torch.float64), -middle / size)
    unit_from_earlier = unit_from_later @ earlier_from_later.inverse()
    fits = [_refit(earlier_from_later, earlier[piece], later[piece], weights[piece]) for piece in pieces]
    moved = Sim3Batch.stack([unit_from_earlier @ fit @ unit_from_later.inverse() for fit in fits])
    rows = []
    for apart in range(1, PIECES):
        first = torch.arange(PIECES - apart)
        rows.append(_rms(sim3_tangent.log(moved.take(first).inverse() @ moved.take(first + apart))))
    return Wander(tuple(sim3_tangent.log(moved).mean(dim=0).tolist()), tuple(rows))


def _refit(start: Sim3, earlier: Tensor, later: Tensor, weights: Tensor) -> Sim3:
    """The robust fit of one piece, from that of the whole."""
    for _ in range(ROUNDS):
        residuals = (earlier - start.apply(later)).norm(dim=1)
        width = residuals.median().clamp(min=torch.finfo(torch.float64).tiny)
        start = fit_weighted(later, earlier, weights * (width / torch.maximum(residuals, width)).square())
    return start


def _rms(tangents: Tensor) -> tuple[float, float, float]:
    """Rms of one component of translation, rotation and log scale of tangent vectors [K, 7]."""
    squares = tangents.square().mean(dim=0)
    return float(squares[:3].mean().sqrt()), float(squares[3:6].mean().sqrt()), float(squares[6].sqrt())
