"""Loop edges: the relative pose of two distant chunks that a loop chunk measures, and whether it is believed.

A loop chunk holds frames of two distant chunks a < c, predicted together. Aligned to both it gives their relative pose,
a_from_c = a_from_loop @ c_from_loop^-1 (docs/numerics.md#loop-edges). An edge is believed when both alignments are as
good as neighbours' (`reach.py`), when it lies within what the chain of seams may have drifted, when other loops vouch
for it where that is far (`agreement.py`), and when the pose graph's robust cost keeps it: four guards, for a loop that
never was ruins a map, and one that is missed leaves some drift. How far is far, and what is good, the seams of the run
show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.chunk_scales import ChunkScales, with_estimated_scales
from scal3r_train.inference.alignment.seam import Seam, SeamQuality, align_chunks, chain
from scal3r_train.inference.alignment.seam_covariance import Advance, SeamErrors, seam_covariances
from scal3r_train.inference.alignment.settings import AlignmentSettings, SeamNoiseSettings
from scal3r_train.inference.loop_closure.agreement import (
    Chain,
    Discrepancy,
    MeasuredLoop,
    largest_company,
    round_trip,
)
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges, optimise_pose_graph
from scal3r_train.inference.loop_closure.reach import Reach, neighbours_reach
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.inference.loop_closure.unary_factors import ScaleFactors

MARGIN = 2.0  # standard deviations on top of a difference, for what it may be in truth


@dataclass(frozen=True, eq=False)
class LoopEdge:
    """The relative pose of chunks `a` < `c` by a loop chunk, and the verdict on it.

    The last five are set by `close_loops`.

    Attributes:
        a, c: numbers of the chunks.
        a_seam, c_seam: the loop chunk's alignments to them (it is the later one of both).
        accepted: the verdict.
        reason: why, in one line.
        scale_ratio: the edge's scale over the chain's.
        chain_deviation: distance from the chain's relative pose in standard deviations.
        chain_doubt: how far the chain and the edge may differ, in standard deviations of the worst direction
            (`agreement.Discrepancy.doubt`) times `max_chain_deviation`.
        num_agreeing: believed loops that agree with it.
        weight: in the optimum, in [0, 1].
    """

    a: int
    c: int
    a_seam: Seam
    c_seam: Seam
    accepted: bool
    reason: str
    scale_ratio: float | None = None
    chain_deviation: float | None = None
    chain_doubt: float | None = None
    num_agreeing: int | None = None
    weight: float | None = None

    @property
    def a_from_c(self) -> Sim3:
        """The measured relative pose."""
        return self.a_seam.earlier_from_later @ self.c_seam.earlier_from_later.inverse()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for scene.json."""
        return {
            "chunks": [self.a, self.c],
            "accepted": self.accepted,
            "reason": self.reason,
            "scale_ratio": self.scale_ratio,
            "chain_deviation": self.chain_deviation,
            "chain_doubt": self.chain_doubt,
            "num_agreeing": self.num_agreeing,
            "weight": self.weight,
            "a_from_c": self.a_from_c.matrix().tolist(),
            "alignments": [self.a_seam.quality.as_dict(), self.c_seam.quality.as_dict()],
        }


@dataclass(frozen=True)
class LoopClosureReport:
    """What closing loops did: all edges with their verdicts, and the solver's account (None: nothing to solve)."""

    edges: tuple[LoopEdge, ...]
    num_accepted: int
    num_iterations: int | None = None
    cost_before: float | None = None
    cost_after: float | None = None
    converged: bool | None = None
    stopped_because: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The solver's account as plain values; the edges have their own `as_dict`."""
        return {key: value for key, value in asdict(replace(self, edges=())).items() if key != "edges"}


def make_loop_edge(
    ends: Mapping[int, ChunkGeometry],
    loop_chunk: ChunkGeometry,
    seams: Sequence[SeamQuality],
    alignment: AlignmentSettings,
    settings: LoopEdgeSettings,
) -> LoopEdge:
    """Align a loop chunk to the two chunks whose frames it holds, and judge the two alignments.

    Args:
        ends: the two chunks by number; frames outside the windows may be left out.
        loop_chunk: frames of both, predicted together; `frame_indices` say which are which.
        seams: of all neighbours, with which the two alignments are compared.
        alignment: of the loop chunk to the two.
        settings: when the edge is believed.

    Raises:
        UserError: cameras have to be used and are not finite.
    """
    a, c = sorted(ends)
    a_seam, c_seam = (align_chunks(ends[number], loop_chunk, alignment) for number in (a, c))
    for chunk, quality in ((a, a_seam.quality), (c, c_seam.quality)):
        fault = _fault(quality, neighbours_reach(seams, quality, settings))
        if fault:
            return LoopEdge(a, c, a_seam, c_seam, accepted=False, reason=f"at chunk {chunk}, {fault}")
    share = min(a_seam.quality.inlier_share or 0, c_seam.quality.inlier_share or 0)
    return LoopEdge(a, c, a_seam, c_seam, accepted=True, reason=f"{share:.0%} of the points fit at both ends")


def close_loops(
    seams: Sequence[Seam],
    loop_edges: Sequence[LoopEdge],
    ranges: Sequence[range],
    settings: LoopEdgeSettings,
    scales: ChunkScales | None = None,
) -> tuple[list[Sim3], LoopClosureReport]:
    """Return world_from_chunk of all chunks (one more than seams; the world is chunk 0) with loops closed.

    Edges that were rejected already stay so. Without any accepted edge the result is `chain(seams)`, with
    `scales`, which chunks have in common, theirs.

    Args:
        seams: in order.
        loop_edges: of `make_loop_edge`.
        ranges: frames of all chunks: how far each advances, it may have drifted.
        settings: when an edge is believed.
        scales: of all chunks, if they were estimated together.
    """
    chained = chain(seams) if scales is None else scales.first_from_chunk
    if not seams or not any(edge.accepted for edge in loop_edges):
        return chained, LoopClosureReport(tuple(loop_edges), 0)
    nodes = Sim3Batch.stack(chained)
    errors = SeamErrors.of(seams, ranges, settings.noise)
    of_edges = [edge_covariance(edge, errors, settings.noise) for edge in loop_edges]
    measured_chain = Chain(nodes, errors.covariances)
    edges = [
        _against_chain(edge, measured_chain, covariance, settings) if edge.accepted else edge
        for edge, covariance in zip(loop_edges, of_edges, strict=True)
    ]
    edges = _in_company(edges, measured_chain, of_edges, settings)
    used = [place for place, edge in enumerate(edges) if edge.accepted]
    if not used:
        return chained, LoopClosureReport(tuple(edges), 0)
    graph = pose_edges(
        seams,
        with_estimated_scales(errors.covariances, scales),
        [edges[place] for place in used],
        [of_edges[place] for place in used],
    )
    result = optimise_pose_graph(nodes, graph, settings.graph, scale_factors(scales))
    for place, weight in zip(used, result.weights[len(seams) :].tolist(), strict=True):
        edges[place] = replace(edges[place], weight=weight)
        if weight < settings.min_weight:
            reason = "outvoted: the other loops and the seams agree on another pose"
            edges[place] = replace(edges[place], accepted=False, reason=reason)
    report = LoopClosureReport(
        tuple(edges),
        sum(edge.accepted for edge in edges),
        result.num_iterations,
        result.cost_before,
        result.cost_after,
        result.converged,
        result.reason,
    )
    return result.nodes.unstack(), report


def _fault(quality: SeamQuality, reach: Reach | None) -> str | None:
    """What is wrong with one alignment of a loop chunk."""
    if quality.method == "break" or quality.inlier_share is None or quality.residual_median is None:
        return quality.reason or f"only {quality.num_points} shared pixels are valid"
    if reach is None:
        return "no neighbours share points: nothing shows how well points should fit"
    if quality.inlier_share < reach.inlier_share:
        return (
            f"{quality.inlier_share:.0%} of the points fit, where neighbours reach {reach.inlier_share:.0%}"
        )
    if quality.residual_median > reach.residual:
        return f"the median residual is {quality.residual_median:.3f}, where neighbours reach {reach.residual:.3f}"
    return None


def edge_covariance(edge: LoopEdge, errors: SeamErrors, settings: SeamNoiseSettings) -> Tensor:
    """[7, 7] of the error on the right of a_from_c: both alignments', and between them the loop chunk's own drift.

    They are moved from the loop chunk's frame to c's. A loop chunk drifts as a chunk does along its usual advance.
    """
    both = seam_covariances(
        [edge.a_seam, edge.c_seam], settings, errors.noise, [Advance(), errors.advance]
    ).sum(dim=0)
    moved = sim3_tangent.adjoint(Sim3Batch.stack([edge.c_seam.earlier_from_later]))[0]
    return moved @ both @ moved.T


def _against_chain(edge: LoopEdge, chain_: Chain, of_edge: Tensor, settings: LoopEdgeSettings) -> LoopEdge:
    """The edge with its distance from the chain, rejected when the chain cannot have drifted that far."""
    error = edge.a_from_c.inverse() @ chain_.relative(edge.a, edge.c)
    tangent = sim3_tangent.log(Sim3Batch.stack([error]))[0]
    found = Discrepancy.of(tangent, chain_.drift(edge.c, edge.a) + of_edge, edge.c_seam.quality)
    ratio = float(torch.exp(-tangent[6]))
    edge = replace(
        edge,
        chain_deviation=found.deviation,
        chain_doubt=found.doubt * settings.max_chain_deviation,
        scale_ratio=ratio,
    )
    if max(ratio, 1 / ratio) > settings.max_scale_ratio:
        reason = (
            f"its scale is {ratio:.2f} times the chain's, beyond a factor of {settings.max_scale_ratio:g}"
        )
        return replace(edge, accepted=False, reason=reason)
    if not found.deviation <= settings.max_chain_deviation:
        reason = (
            f"it lies {found.deviation:.1f} standard deviations from the chain of seams, more than "
            f"{settings.max_chain_deviation:g}"
        )
        return replace(edge, accepted=False, reason=reason)
    return edge


def _in_company(
    edges: Sequence[LoopEdge], chain_: Chain, of_edges: Sequence[Tensor], settings: LoopEdgeSettings
) -> list[LoopEdge]:
    """The edges, of which those that the chain is too uncertain to check are rejected unless enough others agree."""
    places = [place for place, edge in enumerate(edges) if edge.accepted]
    loops = [
        MeasuredLoop(edge.a, edge.c, edge.a_from_c, of_edges[place], edge.a_seam.quality)
        for place, edge in enumerate(edges)
        if edge.accepted
    ]
    limit = settings.graph.kernel_width
    agree, contradict = torch.zeros(2, len(loops), len(loops), dtype=torch.bool)
    for one in range(len(loops)):
        for two in range(one):
            trip = round_trip(loops[one], loops[two], chain_)
            at_most = (trip.deviation + MARGIN) * trip.doubt
            agree[one, two] = agree[two, one] = trip.deviation <= limit and at_most <= settings.max_doubt
            contradict[one, two] = contradict[two, one] = trip.deviation > limit
    sure = [(edges[place].chain_doubt or 0.0) <= settings.max_doubt for place in places]
    believed = largest_company(sure, agree, contradict, settings.min_agreeing)
    judged = list(edges)
    for k, place in enumerate(places):
        if k in believed:
            judged[place] = replace(edges[place], num_agreeing=believed[k])
            continue
        why = f"fewer than {settings.min_agreeing} other loops vouch for it"
        if int(agree[k].sum()) >= settings.min_agreeing:
            why = "loops that contradict it, or those that vouch for it, have as much support"
        reason = (
            f"the chain may have drifted by {edges[place].chain_doubt:.2f} of what the ends see, too far to check it, "
            f"and {why}"
        )
        agreeing = int(agree[k, sorted(believed)].sum())
        judged[place] = replace(edges[place], accepted=False, reason=reason, num_agreeing=agreeing)
    return judged


def pose_edges(
    seams: Sequence[Seam], of_seams: Tensor, loops: Sequence[LoopEdge], of_loops: Sequence[Tensor]
) -> PoseEdges:
    """Return the edges of the pose graph: seams (not robust: without them nothing holds together), then loop edges.

    of_seams, of_loops: covariances [7, 7] of each.
    """
    i = torch.tensor([*range(len(seams)), *(edge.a for edge in loops)])
    j = torch.tensor([*range(1, len(seams) + 1), *(edge.c for edge in loops)])
    measured = [*(seam.earlier_from_later for seam in seams), *(edge.a_from_c for edge in loops)]
    information = torch.linalg.inv(torch.stack([*of_seams, *of_loops]))
    information = (information + information.transpose(1, 2)) / 2
    robust = torch.arange(len(i)) >= len(seams)
    return PoseEdges(i, j, Sim3Batch.stack(measured), information, robust)


def scale_factors(scales: ChunkScales | None) -> ScaleFactors | None:
    """Return what is known of the scales of all chunks: that they are one up to their spread; None without."""
    if scales is None:
        return None
    variances = torch.from_numpy(scales.estimate.chunk_variances)
    drift = torch.from_numpy(scales.estimate.drift)
    return ScaleFactors(torch.arange(len(variances)), drift, 1 / variances, about_common=True)
