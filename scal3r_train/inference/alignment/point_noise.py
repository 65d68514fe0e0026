"""How noisy points are at each depth, measured from how far two chunks' predictions of the same pixels lie apart.

A network's error grows with depth, and of the sky it knows nothing: how much, the overlap itself shows. Depths are
z-depths in the later chunk's cameras, in its units.

Shapes: P pairs of frames, N correspondences, B bands of depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3_fit import weighted_quantile

BANDS, POINTS_PER_BAND = 8, 50
LEAST_DEPTH = 0.05  # of the median: nearer points are not believed more than points there
LEAST_NOISE = 0.5  # of the median relative noise: what two chunks say alike may be alike for a bad reason


@dataclass(frozen=True, eq=False)
class DepthAxis:
    """Z-depth in the cameras of the P shared frames: of x in frame p it is `direction`[p] . x + `offset`[p]."""

    direction: Tensor
    offset: Tensor

    @staticmethod
    def of(extrinsics: Tensor) -> DepthAxis | None:
        """Return the depths of cameras cam_from_chunk [P, 3, 4]; None where one is not finite."""
        if not bool(extrinsics.isfinite().all()):
            return None
        return DepthAxis(extrinsics[:, 2, :3].double(), extrinsics[:, 2, 3].double())

    def depths(self, points: Tensor, pair: Tensor) -> Tensor:
        """Return the depths [N] of points [N, 3] seen in frames `pair` [N]; of points behind a camera negative."""
        return (points * self.direction[pair]).sum(dim=1) + self.offset[pair]


@dataclass(frozen=True, eq=False)
class NoiseCurve:
    """Noise against depth: depth times the relative noise of its band.

    Attributes:
        edges: [B - 1] depths between the bands, ascending.
        relative: [B] median residual over depth.
        least_depth: nearer points count as this near.
    """

    edges: Tensor
    relative: Tensor
    least_depth: float

    @staticmethod
    def measured(depths: Tensor, residuals: Tensor, weights: Tensor) -> NoiseCurve:
        """Return the noise that residuals [N] in the depths' unit show; depths [N], weights [N] > 0."""
        least = least_depth(depths)
        depths = depths.clamp(min=least)
        ratio = residuals / depths
        middle = float(weighted_quantile(ratio, weights, 0.5))
        num_bands = max(1, min(BANDS, len(depths) // POINTS_PER_BAND))
        edges = torch.quantile(depths, torch.linspace(0, 1, num_bands + 1, dtype=depths.dtype)[1:-1])
        band = torch.bucketize(depths, edges)
        found = depths.new_full((num_bands,), middle)
        for number in range(num_bands):
            here = band == number
            if here.any():
                found[number] = weighted_quantile(ratio[here], weights[here], 0.5)
        floor = max(
            LEAST_NOISE * middle, 1e-12
        )  # the second: exact points have no noise, and none is not zero
        return NoiseCurve(edges, found.clamp(min=floor), least)

    def at(self, depths: Tensor) -> Tensor:
        """Return the noise [N] > 0 at depths [N], in their unit."""
        relative = self.relative[0].expand_as(depths).clone()
        for edge, jump in zip(self.edges.tolist(), self.relative.diff().tolist(), strict=True):
            relative.add_(depths > edge, alpha=jump)  # many times faster than bucketize
        return relative.mul_(depths.clamp(min=self.least_depth))


def least_depth(depths: Tensor) -> float:
    """The depth up to which all points of depths [N] count as equally near; positive, wherever the points are."""
    return max(LEAST_DEPTH * float(depths.abs().median()), 1e-30)
