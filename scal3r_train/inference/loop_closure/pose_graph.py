"""Pose graphs over Sim(3) or SE(3): the poses of all chunks that agree best with what was measured of them.

Node k is T_k = world_from_k. An edge (i, j, M) measures M = i_from_j; its residual is e = Log(M^-1 T_i^-1 T_j), a
tangent vector in frame j, and its cost e^T information e. Poses are changed by T <- T Exp(d), so the Jacobians are
Jr^-1(e) for T_j and -Jr^-1(e) Ad(T_j^-1 T_i) for T_i. What is known of single nodes (`unary_factors`) adds to it.
Levenberg-Marquardt with Nielsen's damping. The first node stays, unless positions in the world define where it is; of
scales that are given, rather than common, it takes its own.

Edges marked robust have the truncated quadratic cost, approached from the quadratic one by graduated non-convexity
(GNC-TLS, Yang et al. 2020): with a redescending weight alone, a right loop edge is lost whenever drift exceeds the
width. Edges within the width count fully, so that the solution is not biased by the kernel. docs/alignment.md has the
whole.

Shapes: N nodes, E edges, D = 7 (or 6: SE(3)) numbers of a pose, F factors: edges, then scales, then positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.loop_closure.normal_equations import NO_NODE, NormalEquations
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings
from scal3r_train.inference.loop_closure.unary_factors import PositionFactors, ScaleFactors

FLOAT_FLOOR = 1e-28  # costs below it per residual are rounding
ROUNDING = 1e-13  # relative changes of a cost below it are rounding
SMALLEST_DAMPING = 1e-13
ROUGH_TOLERANCE = 1e-2  # of the cost, before the kernel hardens
SIM3_SIZE = 7
UNDECIDED = 1e-3  # weights further than that from 0 and 1 are undecided


@dataclass(frozen=True, eq=False)
class PoseEdges:
    """E measured relative poses.

    Attributes:
        i, j: [E] node numbers.
        i_from_j: [E] measurements.
        information: [E, D, D] symmetric positive definite, of residuals (tau, phi, sigma) in frame j.
        robust: [E] bool, those that may be wrong altogether.
    """

    i: Tensor
    j: Tensor
    i_from_j: Sim3Batch
    information: Tensor
    robust: Tensor

    def __post_init__(self) -> None:
        num = len(self.i)
        assert self.i.shape == self.j.shape == self.robust.shape == (num,)
        assert len(self.i_from_j) == len(self.information) == num
        assert self.information.shape[1:] in {(6, 6), (7, 7)}, self.information.shape


@dataclass(frozen=True, eq=False)
class PoseGraphResult:
    """What `optimise_pose_graph` found.

    Attributes:
        nodes: N world_from_k.
        weights: [E] in [0, 1], what the kernel left of each edge.
        chi2: [E] squared residuals in standard deviations, unweighted.
        position_weights, position_chi2: [U] the same of the positions.
        common_log_scale: the value that scales were measured from, if that was estimated.
        num_iterations: trial steps.
        cost_before, cost_after: sums of (robust) squares.
        converged: whether one of the tests held before `max_iterations`.
        reason: why it stopped.
    """

    nodes: Sim3Batch
    weights: Tensor
    chi2: Tensor
    position_weights: Tensor
    position_chi2: Tensor
    common_log_scale: float | None
    num_iterations: int
    cost_before: float
    cost_after: float
    converged: bool
    reason: str


def residuals(nodes: Sim3Batch, edges: PoseEdges) -> Tensor:
    """Log(M^-1 T_i^-1 T_j) of every edge, [E, 7]."""
    return sim3_tangent.log(edges.i_from_j.inverse() @ (nodes.take(edges.i).inverse() @ nodes.take(edges.j)))


def optimise_pose_graph(
    nodes: Sim3Batch,
    edges: PoseEdges,
    settings: PoseGraphSettings,
    scales: ScaleFactors | None = None,
    positions: PositionFactors | None = None,
) -> PoseGraphResult:
    """Return the poses of least cost near the given ones.

    Args:
        nodes: where to start; with positions they are first moved to these as one (`PositionFactors.align`).
        edges: every node must be tied to node 0 by them. D follows from their information matrices: with 6, scales
            stay.
        settings: when to stop, and what robust factors cost.
        scales: of nodes; D must be 7. Those about a common value leave node 0 where it is.
        positions: of points of nodes in the world. Without any, node 0 keeps its pose (but for a scale that `scales`
            give as it stands).
    """
    return _Solver(nodes, edges, settings, scales, positions).run()


def _with_common(nodes: Sim3Batch, log_scale: float) -> Sim3Batch:
    """The nodes and one more, which stands for the value that scales have in common."""
    common = Sim3.identity()
    both = [*nodes.unstack(), Sim3(common.scale * np.exp(log_scale), common.rotation, common.translation)]
    return Sim3Batch.stack(both)


class _Solver:
    """One optimisation: the current poses, their residuals and how strict the kernel is."""

    def __init__(
        self,
        nodes: Sim3Batch,
        edges: PoseEdges,
        settings: PoseGraphSettings,
        scales: ScaleFactors | None,
        positions: PositionFactors | None,
    ) -> None:
        self.edges, self.settings, self.scales, self.positions = edges, settings, scales, positions
        self.size = edges.information.shape[-1]
        assert scales is None or self.size == SIM3_SIZE, "scales need edges of Sim(3)"
        self.num_nodes = len(nodes)
        if positions is not None:
            nodes = positions.align(nodes)
        i, j, robust = [edges.i], [edges.j], [edges.robust]
        free = np.ones((len(nodes), self.size), bool)
        free[0] = positions is not None
        if scales is not None:
            other = torch.full_like(scales.node, self.num_nodes if scales.about_common else NO_NODE)
            i, j = [*i, scales.node], [*j, other]
            robust.append(torch.zeros_like(scales.node, dtype=torch.bool))
            if scales.about_common:
                nodes = _with_common(nodes, scales.best_common(nodes))
                free = np.append(free, [[False] * 6 + [True]], axis=0)
            else:
                free[0, -1] = True
        if positions is not None:
            i, j = [*i, positions.node], [*j, torch.full_like(positions.node, NO_NODE)]
            robust.append(positions.robust)
        self.equations = NormalEquations(torch.cat(i).numpy(), torch.cat(j).numpy(), free)
        self.robust = torch.cat(robust) & settings.robust
        self.nodes = nodes
        self.width2 = settings.kernel_width**2
        self.hardness: float | None = None  # mu of GNC-TLS; None: quadratic
        self.residuals, self.chi2 = self._evaluate(nodes)
        self.damping, self.growth = SMALLEST_DAMPING, 2.0
        self.num_iterations = 0

    def run(self) -> PoseGraphResult:
        """Solve with quadratic costs, then, where a robust edge sticks out, with harder and harder kernels."""
        cost_before = self._truncated_cost()
        converged, reason = False, ""
        if self.robust.any():
            converged, reason = self._descend(ROUGH_TOLERANCE)
            worst = float(self.chi2[self.robust].max())
            self.hardness = self.width2 / (2 * worst - self.width2) if worst > self.width2 else None
            while self.hardness is not None and self.num_iterations < self.settings.max_iterations:
                converged, reason = self._descend(ROUGH_TOLERANCE)
                weights = self._weights()
                if bool(((weights < UNDECIDED) | (weights > 1 - UNDECIDED)).all()):
                    break
                self.hardness *= self.settings.annealing_factor
        if self.num_iterations < self.settings.max_iterations:
            converged, reason = self._descend(self.settings.cost_tolerance)
        num_edges, weights = len(self.edges.i), self._weights()
        num_positions = 0 if self.positions is None else len(self.positions.node)
        first_position = len(weights) - num_positions
        has_common = len(self.nodes) > self.num_nodes
        return PoseGraphResult(
            self.nodes.take(torch.arange(self.num_nodes)),
            weights[:num_edges],
            self.chi2[:num_edges],
            weights[first_position:],
            self.chi2[first_position:],
            float(self.nodes.scale[-1].log()) if has_common else None,
            self.num_iterations,
            cost_before,
            self._truncated_cost(),
            converged,
            reason,
        )

    def _descend(self, tolerance: float) -> tuple[bool, str]:
        """Take steps until one of the tests holds, or the cost falls by less than the share `tolerance`; say which."""
        settings = self.settings
        # A long chain's softest modes are 1e-9 of the diagonal: damping that is not needed stalls them.
        self.damping, self.growth = SMALLEST_DAMPING, 2.0
        cost, first_gradient, stale = self._cost(self.chi2), 0.0, True
        while self.num_iterations < settings.max_iterations:
            if cost <= FLOAT_FLOOR * self.chi2.numel():
                return True, "the cost is zero"
            if stale:
                gradient = self._linearise()
                first_gradient, stale = first_gradient or gradient, False
                if gradient <= settings.gradient_tolerance * first_gradient:
                    return True, "the gradient vanishes"
            self.num_iterations += 1
            step, predicted = self.equations.solve(self.damping)
            if float(abs(step).max(initial=0.0)) <= settings.step_tolerance:
                return True, "the step vanishes"
            nodes = self._moved(torch.from_numpy(step))
            new_residuals, chi2 = self._evaluate(nodes)
            new_cost = self._cost(chi2)
            gain = (cost - new_cost) / predicted if predicted > 0 else -1.0
            if not gain > 0:  # also for a cost that is not a number
                if abs(cost - new_cost) <= ROUNDING * cost:
                    return True, "the cost no longer falls"
                self.damping, self.growth = max(self.damping * self.growth, settings.damping), self.growth * 2
                continue
            fallen, cost = (cost - new_cost) / cost, new_cost
            self.nodes, self.residuals, self.chi2, stale = nodes, new_residuals, chi2, True
            self.damping = max(self.damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), SMALLEST_DAMPING)
            self.growth = 2.0
            if fallen < tolerance:
                return True, "the cost no longer falls"
        return False, "max_iterations reached"

    def _linearise(self) -> float:
        """Put the normal equations at the current poses together; return the gradient's largest number."""
        edges, size = self.edges, self.size
        at_edges = self.residuals[0]
        relative = self.nodes.take(edges.j).inverse() @ self.nodes.take(edges.i)
        jacobian_j = sim3_tangent.right_jacobian_inverse(at_edges)
        jacobian_i = -jacobian_j @ sim3_tangent.adjoint(relative)
        jacobians = [
            torch.cat([jacobian_i[:, :size, :size], jacobian_j[:, :size, :size]], dim=2)
        ]  # [E, D, 2 D]
        if self.scales is not None:
            jacobians.append(self.scales.jacobians(size))
        if self.positions is not None:
            jacobians.append(self.positions.jacobians(self.nodes, size))
        weights = self._weights().split([len(jacobian) for jacobian in jacobians])
        hessians, gradients = [], []
        for jacobian, weight, information, residual in zip(
            jacobians, weights, self._information(), self.residuals, strict=True
        ):
            weighted = (weight[:, None, None] * information) @ jacobian
            hessians.append(jacobian.transpose(1, 2) @ weighted)
            part = residual[:, : information.shape[-1], None]
            gradients.append((weighted.transpose(1, 2) @ part)[..., 0])
        return self.equations.fill(torch.cat(hessians).numpy(), torch.cat(gradients).numpy())

    def _moved(self, step: Tensor) -> Sim3Batch:
        """The nodes after a step [N, D]."""
        tangent = step.new_zeros(len(self.nodes), 7)
        tangent[:, : self.size] = step
        return self.nodes @ sim3_tangent.exp(tangent)

    def _information(self) -> list[Tensor]:
        """Those of edges [E, D, D], scales [U, 1, 1] and positions [U, 3, 3], as far as there are any."""
        found = [self.edges.information]
        if self.scales is not None:
            found.append(self.scales.information[:, None, None])
        if self.positions is not None:
            found.append(self.positions.information)
        return found

    def _evaluate(self, nodes: Sim3Batch) -> tuple[list[Tensor], Tensor]:
        """(residuals of edges [E, 7], scales [U, 1] and positions [U, 3], their squares in standard deviations [F])."""
        found = [residuals(nodes, self.edges)]
        found += [kind.residuals(nodes) for kind in (self.scales, self.positions) if kind is not None]
        chi2 = []
        for residual, information in zip(found, self._information(), strict=True):
            part = residual[:, : information.shape[-1]]
            chi2.append(torch.einsum("ei,eij,ej->e", part, information, part))
        return found, torch.cat(chi2)

    def _cost(self, chi2: Tensor) -> float:
        """Sum of squares, where those of robust edges are bent at the present hardness."""
        if self.hardness is None:
            return float(chi2.sum())
        mu, width2 = self.hardness, self.width2
        bent = 2 * (width2 * mu * (mu + 1) * chi2).sqrt() - mu * (width2 + chi2)
        bent = torch.where(chi2 < width2 * mu / (mu + 1), chi2, bent)
        bent = torch.where(chi2 > width2 * (mu + 1) / mu, width2, bent)
        return float(torch.where(self.robust, bent, chi2).sum())

    def _truncated_cost(self) -> float:
        """Sum of squares, where those of robust edges end at the kernel's width."""
        return float(torch.where(self.robust, self.chi2.clamp(max=self.width2), self.chi2).sum())

    def _weights(self) -> Tensor:
        """The derivative of each edge's cost by chi^2, [E]."""
        if self.hardness is None:
            return torch.ones_like(self.chi2)
        mu = self.hardness
        weights = (self.width2 * mu * (mu + 1) / self.chi2.clamp(min=FLOAT_FLOOR)).sqrt() - mu
        return torch.where(self.robust, weights.clamp(0, 1), 1.0)
