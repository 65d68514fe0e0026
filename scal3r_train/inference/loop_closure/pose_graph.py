"""Pose graphs over Sim(3) or SE(3): the poses of all chunks that agree best with measured relative poses.

Node k is T_k = world_from_k. An edge (i, j, M) measures M = i_from_j; its residual is e = Log(M^-1 T_i^-1 T_j), a
tangent vector in frame j, and its cost e^T information e. Poses are changed by T <- T Exp(d), so the Jacobians are
Jr^-1(e) for T_j and -Jr^-1(e) Ad(T_j^-1 T_i) for T_i. Levenberg-Marquardt with Nielsen's damping; the first node
stays. Edges marked robust have the truncated quadratic cost, approached from the quadratic one by graduated
non-convexity (GNC-TLS, Yang et al. 2020): with a redescending weight alone, a right loop edge is lost whenever drift
exceeds the width. Edges within the width count fully, so that the solution is not biased by the kernel.

Every step solves the same sparse system with other numbers (`NormalEquations`): the elimination order (minimum degree,
found on the graph of nodes rather than on its D times as many unknowns) and the place of every number in the sparse
matrix are worked out once. docs/alignment.md has the whole.

Shapes: N nodes, E edges, D = 7 (or 6: SE(3)) numbers of a pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, identity
from scipy.sparse.linalg import splu
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings

SYMMETRIC = {"SymmetricMode": True}
FLOAT_FLOOR = 1e-28  # costs below it per residual are rounding
ROUNDING = 1e-13  # relative changes of a cost below it are rounding
SMALLEST_DAMPING = 1e-13
ROUGH_TOLERANCE = 1e-2  # of the cost, before the kernel hardens
UNDECIDED = 1e-3  # weights further than that from 0 and 1 are undecided


class NormalEquations:
    """(H + damping diag(H)) x = -g, where every edge (i, j) adds to the blocks of its two nodes."""

    def __init__(self, i: np.ndarray, j: np.ndarray, num_nodes: int, size: int) -> None:
        """Work out order and pattern for edges between nodes `i` and `j` [E]; `size` is D."""
        self.size, self.num_free = size, num_nodes - 1
        place = np.full(num_nodes, -1)
        place[1:] = _elimination_order(i - 1, j - 1, self.num_free)
        self._place = place
        ends = np.stack([place[i], place[j]], axis=1)  # [E, 2]
        entry = ends[:, :, None] * size + np.arange(size)
        entry = np.where(ends[:, :, None] < 0, -1, entry).reshape(len(i), 2 * size)
        rows = np.repeat(entry[:, :, None], 2 * size, axis=2).ravel()
        columns = np.repeat(entry[:, None, :], 2 * size, axis=1).ravel()
        self._used = (rows >= 0) & (columns >= 0)
        self._length = size * self.num_free
        key, self._target = np.unique(
            columns[self._used] * self._length + rows[self._used], return_inverse=True
        )
        self._indices = (key % self._length).astype(np.int32)
        counts = np.bincount(key // self._length, minlength=self._length)
        self._indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self._diagonal = np.flatnonzero(self._indices == np.repeat(np.arange(self._length), counts))
        self._gradient_entry = entry.ravel()
        self._values: np.ndarray = np.zeros(len(key))
        self._gradient: np.ndarray = np.zeros(self._length)

    def fill(self, hessian: np.ndarray, gradient: np.ndarray) -> float:
        """Sum the edges' blocks [E, 2 D, 2 D] and gradients [E, 2 D]; return the sum's largest number."""
        self._values = np.bincount(
            self._target, hessian.reshape(-1)[self._used], minlength=len(self._indices)
        )
        used = self._gradient_entry >= 0
        self._gradient = np.bincount(
            self._gradient_entry[used], gradient.reshape(-1)[used], minlength=self._length
        )
        return float(np.abs(self._gradient).max(initial=0.0))

    def solve(self, damping: float) -> tuple[np.ndarray, float]:
        """Return the step [N - 1, D] of nodes 1.., and by how much the quadratic model's cost falls."""
        values = self._values.copy()
        diagonal = values[self._diagonal]
        values[self._diagonal] = diagonal * (1 + damping)
        matrix = csc_matrix((values, self._indices, self._indptr), shape=(self._length, self._length))
        factor = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options=SYMMETRIC)
        step = factor.solve(-self._gradient)
        # Cost is e^T W e, not half of it: model(0) - model(x) = -2 g x - x H x with (H + damping diag) x = -g.
        predicted = float(step @ (damping * diagonal * step - self._gradient))
        return step.reshape(self.num_free, self.size)[self._place[1:]], predicted


def _elimination_order(i: np.ndarray, j: np.ndarray, num: int) -> np.ndarray:
    """The place of every node in a minimum-degree elimination of the graph with edges (i, j); below 0: no node."""
    inner = (i >= 0) & (j >= 0)
    ones = np.ones(int(inner.sum()))
    graph = coo_matrix((ones, (i[inner], j[inner])), shape=(num, num))
    degree = float(np.bincount(np.concatenate([i[inner], j[inner]]), minlength=1).max(initial=0))
    laplacian_like = identity(num) * (2 * degree + 1) - graph - graph.T  # diagonally dominant
    factor = splu(
        csc_matrix(laplacian_like), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=SYMMETRIC
    )
    return factor.perm_c.astype(np.int64)


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
        num_iterations: trial steps.
        cost_before, cost_after: sums of (robust) squares.
        converged: whether one of the tests held before `max_iterations`.
        reason: why it stopped.
    """

    nodes: Sim3Batch
    weights: Tensor
    chi2: Tensor
    num_iterations: int
    cost_before: float
    cost_after: float
    converged: bool
    reason: str


def residuals(nodes: Sim3Batch, edges: PoseEdges) -> Tensor:
    """Log(M^-1 T_i^-1 T_j) of every edge, [E, 7]."""
    return sim3_tangent.log(edges.i_from_j.inverse() @ (nodes.take(edges.i).inverse() @ nodes.take(edges.j)))


def optimise_pose_graph(nodes: Sim3Batch, edges: PoseEdges, settings: PoseGraphSettings) -> PoseGraphResult:
    """Return the poses of least cost near the given ones; node 0 keeps its pose.

    Every node must be tied to node 0 by edges. D follows from the information matrices: with 6, scales stay.
    """
    return _Solver(nodes, edges, settings).run()


class _Solver:
    """One optimisation: the current poses, their residuals and how strict the kernel is."""

    def __init__(self, nodes: Sim3Batch, edges: PoseEdges, settings: PoseGraphSettings) -> None:
        self.edges, self.settings = edges, settings
        self.size = edges.information.shape[-1]
        self.equations = NormalEquations(edges.i.numpy(), edges.j.numpy(), len(nodes), self.size)
        self.robust = edges.robust & settings.robust
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
        return PoseGraphResult(
            self.nodes,
            self._weights(),
            self.chi2,
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
        relative = self.nodes.take(edges.j).inverse() @ self.nodes.take(edges.i)
        jacobian_j = sim3_tangent.right_jacobian_inverse(self.residuals)
        jacobian_i = -jacobian_j @ sim3_tangent.adjoint(relative)
        jacobian = torch.cat([jacobian_i[:, :size, :size], jacobian_j[:, :size, :size]], dim=2)  # [E, D, 2 D]
        information = self._weights()[:, None, None] * edges.information
        weighted = information @ jacobian
        hessian = jacobian.transpose(1, 2) @ weighted
        gradient = (weighted.transpose(1, 2) @ self.residuals[:, :size, None])[..., 0]
        return self.equations.fill(hessian.numpy(), gradient.numpy())

    def _moved(self, step: Tensor) -> Sim3Batch:
        """The nodes after a step [N - 1, D] of all but the first."""
        tangent = step.new_zeros(len(self.nodes), 7)
        tangent[1:, : self.size] = step
        return self.nodes @ sim3_tangent.exp(tangent)

    def _evaluate(self, nodes: Sim3Batch) -> tuple[Tensor, Tensor]:
        """(residuals [E, 7], their squares in standard deviations [E])."""
        found = residuals(nodes, self.edges)
        part = found[:, : self.size]
        return found, torch.einsum("ei,eij,ej->e", part, self.edges.information, part)

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
