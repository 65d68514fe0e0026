"""What the neighbours of this run reach: how large a residual, and how small a share of fitting points, is normal here.

A noisy network leaves large residuals at every seam, and at the ends of a true loop no smaller ones. So a loop chunk's
alignments are held against the seams of the same run, those most of all whose overlap is alike: as many frames, and a
camera that turns as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.inference.alignment.seam import SeamQuality
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings

ALIKE_FRAMES = math.log(2)  # overlaps whose lengths differ by this factor still count by 61 %
ALIKE_TURN_DEG = 30.0  # and so do those that turn by this much more
LEAST_WEIGHT = 0.05  # of a seam that is not alike at all: with few seams, every one has to count


@dataclass(frozen=True)
class Reach:
    """The limits of an alignment that is as good as a neighbour's.

    Attributes:
        residual: largest median residual, relative to the scene's scale.
        inlier_share: least share of points that fit, in [0, 1].
    """

    residual: float
    inlier_share: float


def neighbours_reach(
    seams: Sequence[SeamQuality], like: SeamQuality, settings: LoopEdgeSettings
) -> Reach | None:
    """Return what seams like a given alignment reach, with the margin of the settings; None without seams by points."""
    known = [seam for seam in seams if seam.residual_median is not None and seam.inlier_share is not None]
    if not known:
        return None
    weights = torch.tensor([_likeness(seam, like) for seam in known], dtype=torch.float64)
    residuals = torch.tensor([float(seam.residual_median or 0) for seam in known], dtype=torch.float64)
    shares = torch.tensor([float(seam.inlier_share or 0) for seam in known], dtype=torch.float64)
    margin = settings.end_margin
    return Reach(
        margin * weighted_quantile(residuals, weights, settings.end_quantile),
        -weighted_quantile(-shares, weights, settings.end_quantile) / margin,
    )


def weighted_quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """Return the least of the values [N] that at least this share of the weights [N] do not exceed."""
    order = values.argsort()
    reached = weights[order].cumsum(dim=0)
    place = int(torch.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))
    return float(values[order][min(place, len(values) - 1)])


def _likeness(seam: SeamQuality, other: SeamQuality) -> float:
    """How much a seam says about another: 1 for equal overlaps, towards LEAST_WEIGHT for others."""
    longer = math.log(max(1, seam.num_frames) / max(1, other.num_frames)) / ALIKE_FRAMES
    turned = (seam.turn_deg - other.turn_deg) / ALIKE_TURN_DEG
    return LEAST_WEIGHT + (1 - LEAST_WEIGHT) * math.exp(-(longer**2 + turned**2) / 2)
