"""What is known of single nodes of a pose graph: their scales, and where points of theirs lie in the world.

Node k is T_k = world_from_k, y = s R x + t, changed by T <- T Exp(d) with d = (tau, phi, sigma). Then log s changes by
sigma, and the point T_k p by s R (tau + phi x p + sigma p), both exactly to first order (docs/alignment.md).

Shapes: N nodes, U factors, D = 7 (or 6: SE(3)) numbers of a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.geometry.sim3_fit import RobustFitSettings, fit_robust
from scal3r_train.geometry.sim3_tangent import skew


@dataclass(frozen=True, eq=False)
class ScaleFactors:
    """U statements about scales of nodes, which need information matrices of 7 x 7 in the graph's edges.

    Attributes:
        node: [U] node numbers.
        log_scale: [U] float64, what log s of the node should be: as it stands, or above the common value.
        information: [U] float64 > 0, one over the variance.
        about_common: whether the values count from one value common to all, which is estimated with the poses.
    """

    node: Tensor
    log_scale: Tensor
    information: Tensor
    about_common: bool

    def __post_init__(self) -> None:
        assert self.node.shape == self.log_scale.shape == self.information.shape == (len(self.node),)

    def best_common(self, nodes: Sim3Batch) -> float:
        """Return the common value that fits the given poses best."""
        gaps = nodes.take(self.node).scale.log() - self.log_scale
        return float((self.information * gaps).sum() / self.information.sum())

    def residuals(self, nodes: Sim3Batch) -> Tensor:
        """Return log s less what it should be, [U, 1]; the common value is the scale of the last of `nodes`."""
        found = nodes.take(self.node).scale.log() - self.log_scale
        return (found - nodes.scale[-1].log() if self.about_common else found)[:, None]

    def jacobians(self, size: int) -> Tensor:
        """Return their derivatives by the steps of the node and of the one for the common value, [U, 1, 2 D]."""
        jacobian = torch.zeros(len(self.node), 1, 2 * size, dtype=torch.float64)
        jacobian[:, 0, size - 1] = 1
        jacobian[:, 0, -1] = -1 if self.about_common else 0
        return jacobian


@dataclass(frozen=True, eq=False)
class PositionFactors:
    """U statements of where points of nodes lie in the world, such as camera centres at GPS positions.

    Attributes:
        node: [U] node numbers.
        point: [U, 3] float64, in the node's own coordinates.
        position: [U, 3] float64, in the world, which they define: the first node is not held.
        information: [U, 3, 3] float64, inverse covariances of the positions.
        robust: [U] bool, those that may be wrong altogether.
    """

    node: Tensor
    point: Tensor
    position: Tensor
    information: Tensor
    robust: Tensor

    def __post_init__(self) -> None:
        num = len(self.node)
        assert self.node.shape == self.robust.shape == (num,)
        assert self.point.shape == self.position.shape == (num, 3)
        assert self.information.shape == (num, 3, 3)

    def residuals(self, nodes: Sim3Batch) -> Tensor:
        """Return T_k p less the position, [U, 3]."""
        return self._placed(nodes) - self.position

    def jacobians(self, nodes: Sim3Batch, size: int) -> Tensor:
        """Return the derivatives of the residuals by the node's step, [U, 3, 2 D]: the factor has no second node."""
        at = nodes.take(self.node)
        eye = torch.eye(3, dtype=torch.float64).expand(len(self.node), 3, 3)
        moved = torch.cat([eye, -skew(self.point), self.point[:, :, None]], dim=2)
        jacobian = torch.zeros(len(self.node), 3, 2 * size, dtype=torch.float64)
        jacobian[:, :, :size] = (at.scale[:, None, None] * (at.rotation @ moved))[:, :, :size]
        return jacobian

    def align(self, nodes: Sim3Batch) -> Sim3Batch:
        """Return the nodes moved as one by the similarity that brings the points nearest to their positions.

        Robust: up to about two fifths of the positions may be wrong altogether. Positions on one line leave the turn
        about it open; one is chosen. At least two positions, and two of the points, must differ.
        """
        weights = 1 / torch.linalg.inv(self.information).diagonal(dim1=1, dim2=2).sum(1)
        placed = self._placed(nodes)
        found = fit_robust(placed, self.position, weights / weights.max(), RobustFitSettings()).sim3
        assert float(found.scale) > 0, "positions of one place have no scale"
        return Sim3Batch.stack([found @ node for node in nodes.unstack()])

    def _placed(self, nodes: Sim3Batch) -> Tensor:
        at = nodes.take(self.node)
        return at.scale[:, None] * (at.rotation @ self.point[..., None])[..., 0] + at.translation
