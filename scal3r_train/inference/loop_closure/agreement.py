"""Loops that vouch for each other, for when the chain has drifted too far to vouch for any.

Where the chain of seams may have drifted as far as the places in a town lie apart, a wrong loop lies within its drift
as well as a true one: the chain cannot tell. Two loops can: from chunk a1 by the first to c1, along the chain to c2,
back by the second to a2 and along the chain to a1 must lead home, and where both pieces of chain are short, hardly
anything may be missing. So such loops are believed only in company, and only in the largest company there is.

Shapes: K loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.seam import SeamQuality

MOST_SETS = 50_000  # they may grow exponentially with the loops; so many take about 2 seconds


@dataclass(frozen=True)
class Discrepancy:
    """A difference of two ways from chunk to chunk, and what their errors allow.

    Attributes:
        deviation: the difference in standard deviations.
        doubt: largest standard deviation of the difference, in the worst direction: of translation as a share of the
            diameter of what the loop's end sees, of rotation in radians, of the logarithm of scale.
    """

    deviation: float
    doubt: float

    @staticmethod
    def of(error: Tensor, covariance: Tensor, end: SeamQuality) -> Discrepancy:
        """Return it for an error [7] with its covariance [7, 7] in the coordinates of the chunk aligned at `end`."""
        deviation = (error @ torch.linalg.solve(covariance, error)).clamp(min=0).sqrt()
        size = 2 * (end.spread or 0.5)
        middle = torch.tensor(end.centre or (0.0, 0.0, 0.0), dtype=torch.float64)
        unit = Sim3(
            torch.tensor(1 / size, dtype=torch.float64), torch.eye(3, dtype=torch.float64), -middle / size
        )
        moved = sim3_tangent.adjoint(Sim3Batch.stack([unit]))[0]
        return Discrepancy(
            float(deviation),
            float(torch.linalg.eigvalsh(moved @ covariance @ moved.T)[-1].clamp(min=0).sqrt()),
        )


@dataclass(frozen=True, eq=False)
class Chain:
    """The chain of seams with its errors: world_from_chunk of all chunks, and covariances [E, 7, 7] of the seams."""

    nodes: Sim3Batch
    covariances: Tensor

    def relative(self, a: int, c: int) -> Sim3:
        """a_from_c."""
        a_from_c = self.nodes.take(torch.tensor([a])).inverse() @ self.nodes.take(torch.tensor([c]))
        return a_from_c.unstack()[0]

    def drift(self, from_chunk: int, to_chunk: int) -> Tensor:
        """Covariance [7, 7] of the way between two chunks, in either order, seen from `from_chunk`."""
        first, last = sorted((from_chunk, to_chunk))
        between = torch.arange(first + 1, last + 1)  # chunks whose seam to the one before lies on the way
        if not len(between):
            return torch.zeros(7, 7, dtype=torch.float64)
        here = self.nodes.take(torch.full((len(between),), from_chunk))
        moved = sim3_tangent.adjoint(here.inverse() @ self.nodes.take(between))
        return (moved @ self.covariances[between - 1] @ moved.transpose(1, 2)).sum(dim=0)


@dataclass(frozen=True, eq=False)
class MeasuredLoop:
    """A loop edge as a measurement: a_from_c with its covariance [7, 7] on the right, and its alignment to chunk a."""

    a: int
    c: int
    a_from_c: Sim3
    covariance: Tensor
    a_end: SeamQuality


def round_trip(one: MeasuredLoop, two: MeasuredLoop, chain: Chain) -> Discrepancy:
    """Return what is missing on the way out by one loop and home by another, in the coordinates of the first chunk."""
    to_other = one.a_from_c @ chain.relative(one.c, two.c)
    home = to_other @ two.a_from_c.inverse() @ chain.relative(two.a, one.a)
    out, over = sim3_tangent.adjoint(Sim3Batch.stack([one.a_from_c, to_other]))
    covariance = out @ (one.covariance + chain.drift(one.c, two.c)) @ out.T
    covariance = covariance + over @ two.covariance @ over.T + chain.drift(one.a, two.a)
    return Discrepancy.of(sim3_tangent.log(Sim3Batch.stack([home]))[0], covariance, one.a_end)


def largest_company(
    sure: Sequence[bool], agree: Tensor, contradict: Tensor, min_agreeing: int
) -> dict[int, int]:
    """Return which of K loops are believed, with the number of believed loops that agree with each.

    Loops that the chain vouches for are. Of the others the largest set is in which none contradicts another or one
    that is sure, and each agrees with at least `min_agreeing` believed loops. Of equally large sets, what all share;
    of loops that contradict each other in more ways than MOST_SETS, none.

    Args:
        sure: whether the chain vouches for each.
        agree, contradict: [K, K] bool, symmetric.
        min_agreeing: loops that must agree with one that is not sure.
    """
    firm = [k for k, is_sure in enumerate(sure) if is_sure]
    open_ = [k for k, is_sure in enumerate(sure) if not is_sure and not contradict[k, firm].any()]
    compatible = {k: {j for j in open_ if j != k and not contradict[k, j]} for k in open_}

    vouching = [set(torch.nonzero(row)[:, 0].tolist()) for row in agree]

    def company(members: set[int]) -> set[int]:
        """Return the members without those that too few agree with, again and again."""
        while lonely := {k for k in members if len(vouching[k] & members.union(firm)) < min_agreeing}:
            members = members - lonely
        return members

    cliques = list(islice(_cliques(set(), set(open_), set(), compatible), MOST_SETS + 1))
    found = [company(clique) for clique in cliques] if len(cliques) <= MOST_SETS else []
    largest = max((len(members) for members in found), default=0)
    shared = company(
        set.intersection(*(members for members in found if len(members) == largest)) if found else set()
    )
    believed = sorted({*firm, *shared})
    return {k: int(agree[k, [j for j in believed if j != k]].sum()) for k in believed}


def _cliques(
    clique: set[int], candidates: set[int], excluded: set[int], neighbours: dict[int, set[int]]
) -> Iterator[set[int]]:
    """Maximal sets whose members are all neighbours (Bron and Kerbosch 1973, with a pivot)."""
    if not candidates and not excluded:
        yield clique
        return
    pivot = max(sorted(candidates | excluded), key=lambda k: len(neighbours[k] & candidates))
    for k in sorted(candidates - neighbours[pivot]):
        yield from _cliques(clique | {k}, candidates & neighbours[k], excluded & neighbours[k], neighbours)
        candidates, excluded = candidates - {k}, excluded | {k}
