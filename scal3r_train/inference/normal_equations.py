"""Sparse normal equations of a pose graph: one symmetric positive definite system, factored again and again.

The pattern never changes, so the elimination order (minimum degree, found on the graph of nodes rather than on its
D times as many unknowns) and the place of every number in the sparse matrix are worked out once. Node 0 is fixed and
has no unknowns. Shapes: N nodes, E edges, D unknowns of a node.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix, identity
from scipy.sparse.linalg import splu

SYMMETRIC = {"SymmetricMode": True}


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
