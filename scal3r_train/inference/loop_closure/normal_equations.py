"""The sparse linear system of a pose graph, whose order and pattern are worked out once and filled at every step.

The elimination order (minimum degree) is found on the graph of nodes rather than on its D times as many unknowns, and
the place of every number in the sparse matrix is kept.

Shapes: N nodes, F factors (each of one node or two), D numbers of a node.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix, identity
from scipy.sparse.linalg import splu

SYMMETRIC = {"SymmetricMode": True}
NO_NODE = -1  # the other end of a factor that has one node only


class NormalEquations:
    """(H + damping diag(H)) x = -g, where every factor (i, j) adds to the blocks of its two nodes."""

    def __init__(self, i: np.ndarray, j: np.ndarray, free: np.ndarray) -> None:
        """Work out order and pattern.

        Args:
            i, j: [F] nodes of each factor, NO_NODE where it has one only.
            free: [N, D] bool, the numbers that are unknowns; the others keep their values.
        """
        self.free, size = free, free.shape[1]
        self._present = free.any(axis=1)
        self._num_present = int(self._present.sum())
        index = np.where(self._present, np.cumsum(self._present) - 1, NO_NODE)
        index = np.append(index, NO_NODE)  # that of NO_NODE
        order = _elimination_order(index[i], index[j], self._num_present)
        place = np.full(len(free) + 1, NO_NODE)
        place[:-1][self._present] = order
        self._order = order
        nodes = np.stack([i, j], axis=1)  # [F, 2]
        entry = place[nodes][:, :, None] * size + np.arange(size)
        is_free = np.append(free, np.zeros((1, size), bool), axis=0)
        entry = np.where(is_free[nodes], entry, -1).reshape(len(i), 2 * size)
        rows = np.repeat(entry[:, :, None], 2 * size, axis=2).ravel()
        columns = np.repeat(entry[:, None, :], 2 * size, axis=1).ravel()
        self._used = (rows >= 0) & (columns >= 0)
        self._length = size * self._num_present
        used_key = columns[self._used] * self._length + rows[self._used]
        # A number of a present node that is kept has a 1 on the diagonal and no gradient: its step is 0.
        kept = np.flatnonzero(~free[self._present][np.argsort(order)].ravel())
        key, target = np.unique(np.concatenate([used_key, kept * self._length + kept]), return_inverse=True)
        self._target, self._kept = target[: len(used_key)], target[len(used_key) :]
        self._indices = (key % self._length).astype(np.int32)
        counts = np.bincount(key // self._length, minlength=self._length)
        self._indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self._diagonal = np.flatnonzero(self._indices == np.repeat(np.arange(self._length), counts))
        self._gradient_entry = entry.ravel()
        self._values: np.ndarray = np.zeros(len(key))
        self._gradient: np.ndarray = np.zeros(self._length)

    def fill(self, hessian: np.ndarray, gradient: np.ndarray) -> float:
        """Sum the factors' blocks [F, 2 D, 2 D] and gradients [F, 2 D]; return the sum's largest number."""
        self._values = np.bincount(
            self._target, hessian.reshape(-1)[self._used], minlength=len(self._indices)
        )
        self._values[self._kept] = 1.0
        used = self._gradient_entry >= 0
        self._gradient = np.bincount(
            self._gradient_entry[used], gradient.reshape(-1)[used], minlength=self._length
        )
        return float(np.abs(self._gradient).max(initial=0.0))

    def solve(self, damping: float) -> tuple[np.ndarray, float]:
        """Return the step [N, D], 0 where a number is kept, and by how much the quadratic model's cost falls."""
        values = self._values.copy()
        diagonal = values[self._diagonal]
        values[self._diagonal] = diagonal * (1 + damping)
        matrix = csc_matrix((values, self._indices, self._indptr), shape=(self._length, self._length))
        factor = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options=SYMMETRIC)
        found = factor.solve(-self._gradient)
        # Cost is e^T W e, not half of it: model(0) - model(x) = -2 g x - x H x with (H + damping diag) x = -g.
        predicted = float(found @ (damping * diagonal * found - self._gradient))
        step = np.zeros(self.free.shape)
        step[self._present] = found.reshape(self._num_present, -1)[self._order]
        return step, predicted


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
