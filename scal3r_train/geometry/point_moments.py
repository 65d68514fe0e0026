"""Weighted moments of two corresponding point sets, all that a closed-form similarity needs of them (float64).

`moments_of` takes points that are there at once, `MomentSums` adds block after block, so that millions of points cost
the memory of a block. Source: docs/numerics.md#closed-form. Shapes: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_tangent import covariance_at_origin

LEAST_CURVATURE = 1e-10  # below it, relative to that of translation, a direction counts as open
ROUNDING = 1e-8  # of the points' size: no fit is surer


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
    """Moments of points that are added group by group, and what the groups' contradictions say of a fit to all.

    Sums are taken about an origin near the points, so that no digits cancel when the mean is taken off.
    """

    def __init__(self, num_groups: int, source_origin: Tensor, target_origin: Tensor) -> None:
        """Start with no points; origins [3] float64 near the middle of either set."""
        self._source_origin, self._target_origin = source_origin, target_origin
        self._sums = source_origin.new_zeros(num_groups, 7, 7)  # of (1, x, y) (1, x, y)^T
        self._count = 0

    def columns(self, source: Tensor, target: Tensor) -> Tensor:
        """(1, x, y) [7, N] of corresponding points [N, 3], x and y about the origins; float64."""
        columns = self._sums.new_empty(7, len(source))
        columns[0] = 1
        columns[1:4] = source.T
        columns[4:7] = target.T
        columns[1:4] -= self._source_origin[:, None]
        columns[4:7] -= self._target_origin[:, None]
        return columns

    def residual_of_columns(self, sim3: Sim3) -> Tensor:
        """[3, 7] that makes of columns the residuals sim3^-1(y) - x in the source's frame."""
        back = sim3.inverse()
        offset = back.apply(self._target_origin) - self._source_origin
        return torch.cat([offset[:, None], -torch.eye(3).to(offset), back.scale * back.rotation], dim=1)

    def source_of_columns(self) -> Tensor:
        """[3, 7] that makes of columns the source's points."""
        zero = torch.zeros(3, 3).to(self._source_origin)
        return torch.cat([self._source_origin[:, None], torch.eye(3).to(zero), zero], dim=1)

    def add(self, group: int, columns: Tensor, weights: Tensor) -> None:
        """Add points, as `columns` [7, N], with weights [N] float64 to a group."""
        self._sums[group] += (columns * weights) @ columns.T
        self._count += int(weights.count_nonzero())

    def moments(self) -> Moments:
        """Moments of all points so far, whose weight must be positive."""
        sums = self._sums.sum(dim=0)
        assert sums[0, 0] > 0, "correspondences without weight"
        sums = sums / sums[0, 0]
        source_mean, target_mean = sums[0, 1:4], sums[0, 4:7]
        return Moments(
            self._source_origin + source_mean,
            self._target_origin + target_mean,
            sums[1:4, 1:4].trace() - source_mean @ source_mean,
            sums[4:7, 4:7].trace() - target_mean @ target_mean,
            sums[1:4, 4:7] - torch.outer(source_mean, target_mean),
        )

    def covariance(self, sim3: Sim3, larger: Tensor) -> Tensor:
        """Covariance [7, 7] of `sim3` @ Exp(error), `sim3` being the fit to all points.

        The derivative of the weighted squares is a sum over points. If errors were common to the points of a group and
        independent between groups, the scatter of the groups' shares would be what the sum is uncertain by: a sandwich
        estimate (docs/numerics.md#all-pixels). `larger` [G] merges groups; where these scatter more than the groups
        would if they were independent, the whole is as much larger. Directions that the points leave open get a large
        variance.
        """
        total = self._sums.sum(dim=0)
        weight = total[0, 0]
        # Residual and point about the weighted mean, as linear functions of (1, x, y).
        eye, zero = torch.eye(3).to(total), total.new_zeros(3, 3)
        mean = total[0, 1:4] / weight
        to_residual = self.residual_of_columns(sim3)
        to_point = torch.cat([-mean[:, None], eye, zero], dim=1)
        outer = to_residual @ self._sums @ to_point.T
        turning = torch.stack([outer[:, j, i] - outer[:, i, j] for i, j in ((1, 2), (2, 0), (0, 1))], dim=1)
        stretching = outer.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True)
        scores = torch.cat([(to_residual @ self._sums)[:, :, 0], turning, stretching], dim=1)
        spread = to_point @ total @ to_point.T
        size = (spread.trace() / weight).sqrt()  # rms distance from the mean, the unit of what follows
        units = torch.cat([torch.ones(3).to(total), torch.ones(4).to(total) / size])
        normal = torch.block_diag(weight * eye, spread.trace() * eye - spread, spread.trace()[None, None])
        normal = units[:, None] * normal * units / weight
        inverse = torch.linalg.inv(normal + LEAST_CURVATURE * torch.eye(7).to(total))
        scores = scores * units / weight
        scatter = _scatter(scores, torch.arange(len(scores)))
        if scatter.trace() > 0:
            scatter = scatter * (_scatter(scores, larger).trace() / scatter.trace()).clamp(min=1)
        alone = (to_residual @ total @ to_residual.T).trace() / weight / 3 / self._count
        alone = torch.maximum(alone, (ROUNDING * size) ** 2)
        found = units[:, None] * (inverse @ scatter @ inverse + alone * inverse) * units
        return covariance_at_origin(found[None], (self._source_origin + mean)[None])[0]


def _scatter(scores: Tensor, partition: Tensor) -> Tensor:
    """Sum of the squares [7, 7] of the parts' summed scores [G, 7], corrected for small numbers of parts."""
    kinds, index = partition.unique(return_inverse=True)
    sums = scores.new_zeros(len(kinds), scores.shape[1]).index_add(0, index, scores)
    return sums.T @ sums * (len(kinds) / max(len(kinds) - 1, 1))


def closest_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation R maximising trace(R covariance), and that trace (a reflection is never taken)."""
    u, singular_values, v_transposed = torch.linalg.svd(covariance)
    sign = torch.sign(torch.linalg.det(u) * torch.linalg.det(v_transposed))
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign])
    return (v_transposed.T * signs) @ u.T, (singular_values * signs).sum()
