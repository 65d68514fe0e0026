"""Weighted moments of two corresponding point sets, all that a closed-form similarity needs of them (float64).

`moments_of` takes points that are there at once, `MomentSums` adds block after block, so that millions of points cost
the memory of a block. Source: docs/numerics.md#closed-form. Shapes: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3


@dataclass(frozen=True, eq=False)
class Moments:
    """Means [3] and variances [] of source and target, and covariance [3, 3] = E[source target^T]."""

    source_mean: Tensor
    target_mean: Tensor
    source_variance: Tensor
    target_variance: Tensor
    covariance: Tensor

    def place(self, scale: Tensor, rotation: Tensor) -> Sim3:
        """The similarity with this scale and rotation that maps centroid onto centroid."""
        return Sim3(scale, rotation, self.target_mean - scale * (rotation @ self.source_mean))

    def similarity(self, scale: float | None = None) -> Sim3:
        """The closest similarity with the symmetric scale (Horn's ratio of rms radii), or with a given one."""
        rotation, _ = closest_rotation(self.covariance)
        if scale is not None:
            return self.place(self.covariance.new_tensor(scale), rotation)
        return self.place((self.target_variance / self.source_variance).sqrt(), rotation)


def moments_of(source: Tensor, target: Tensor, weights: Tensor) -> Moments:
    """Moments of corresponding points [N, 3] under weights [N] (normalised here)."""
    assert source.shape == target.shape == (len(weights), 3), (source.shape, target.shape, weights.shape)
    source, target, weights = source.double(), target.double(), weights.double()
    total = weights.sum()
    assert total > 0, "correspondences without weight"
    weights = weights / total
    source_mean, target_mean = weights @ source, weights @ target
    source, target = source - source_mean, target - target_mean
    source_variance, target_variance = weights @ source.square().sum(1), weights @ target.square().sum(1)
    covariance = (source * weights[:, None]).T @ target
    return Moments(source_mean, target_mean, source_variance, target_variance, covariance)


class MomentSums:
    """Moments of blocks that are added one after the other.

    Sums are taken about an origin near the points, so that no digits cancel when the mean is taken off.
    """

    def __init__(self, source_origin: Tensor, target_origin: Tensor) -> None:
        """Start with no points; origins [3] float64 near the middle of either set."""
        self._source_origin, self._target_origin = source_origin, target_origin
        self._sums = source_origin.new_zeros(7, 7)

    @property
    def weight(self) -> float:
        """The weight of all points so far."""
        return float(self._sums[0, 0])

    def add(self, source: Tensor, target: Tensor, weights: Tensor) -> None:
        """Add corresponding points [N, 3] with weights [N], all float64."""
        block = source.new_empty(7, len(weights))
        block[0] = 1
        torch.sub(source.T, self._source_origin[:, None], out=block[1:4])
        torch.sub(target.T, self._target_origin[:, None], out=block[4:7])
        self._sums += (block * weights) @ block.T

    def moments(self) -> Moments:
        """Moments of all points so far, whose weight must be positive."""
        assert self.weight > 0, "correspondences without weight"
        sums = self._sums / self._sums[0, 0]
        source_mean, target_mean = sums[0, 1:4], sums[0, 4:7]
        return Moments(
            self._source_origin + source_mean,
            self._target_origin + target_mean,
            sums[1:4, 1:4].trace() - source_mean @ source_mean,
            sums[4:7, 4:7].trace() - target_mean @ target_mean,
            sums[1:4, 4:7] - torch.outer(source_mean, target_mean),
        )


def closest_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation R maximising trace(R covariance), and that trace (a reflection is never taken)."""
    u, singular_values, v_transposed = torch.linalg.svd(covariance)
    sign = torch.sign(torch.linalg.det(u) * torch.linalg.det(v_transposed))
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign])
    return (v_transposed.T * signs) @ u.T, (singular_values * signs).sum()
