"""Loops as the release closes them: every loop chunk is an edge of the pose graph, with the weight of a seam.

No verdict, no covariance, no robust cost: residuals Log(Z T_(k+1)^-1 T_k) of seams Z = k_from_(k+1) and
Log(S T_a^-1 T_c) of loops S = c_from_a, a the chunk of the pair's first frame, all seven numbers with unit weight
(docs/numerics.md#pose-graph). They are `PoseEdges` of the other direction. The release's optimum is the same in any
gauge, so node 0 stays here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import Seam, align_chunks, chain
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.loop_closure.edges import LoopClosureReport, LoopEdge
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges, optimise_pose_graph
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings

TAKEN = "taken as it is: loop_closure.rules is release"


def unjudged_edge(
    ends: Mapping[int, ChunkGeometry], loop_chunk: ChunkGeometry, alignment: AlignmentSettings
) -> LoopEdge:
    """Return the edge that a loop chunk gives; it counts wherever shared pixels joined both of its ends.

    Arguments as for `edges.make_loop_edge`. Raises UserError when cameras have to be used and are not finite.
    """
    a, c = sorted(ends)
    a_seam, c_seam = (align_chunks(ends[number], loop_chunk, alignment) for number in (a, c))
    for chunk, seam in ((a, a_seam), (c, c_seam)):
        if seam.quality.method != "points":
            reason = f"at chunk {chunk}, only {seam.quality.num_points} shared pixels are valid"
            return LoopEdge(a, c, a_seam, c_seam, accepted=False, reason=reason)
    return LoopEdge(a, c, a_seam, c_seam, accepted=True, reason=TAKEN)


def close_unjudged(
    seams: Sequence[Seam],
    edges: Sequence[LoopEdge],
    first_chunks: Sequence[int],
    settings: PoseGraphSettings,
) -> tuple[list[Sim3], LoopClosureReport]:
    """Return world_from_chunk of all chunks (one more than seams; the world is chunk 0) with loops closed.

    Args:
        seams: in order.
        edges: of `unjudged_edge`.
        first_chunks: of each, the chunk of the pair's first frame.
        settings: when the solver stops; nothing is robust.
    """
    used = [(edge, first) for edge, first in zip(edges, first_chunks, strict=True) if edge.accepted]
    chained = chain(seams)
    if not used:
        return chained, LoopClosureReport(tuple(edges), 0)
    i, j = list(range(1, len(seams) + 1)), list(range(len(seams)))
    i_from_j = [seam.earlier_from_later.inverse() for seam in seams]
    for edge, first in used:
        assert first in (edge.a, edge.c)
        i.append(first)
        j.append(edge.a + edge.c - first)
        i_from_j.append(edge.a_from_c if first == edge.a else edge.a_from_c.inverse())
    graph = PoseEdges(
        torch.tensor(i),
        torch.tensor(j),
        Sim3Batch.stack(i_from_j),
        torch.eye(7, dtype=torch.float64).expand(len(i), 7, 7),
        torch.zeros(len(i), dtype=torch.bool),
    )
    result = optimise_pose_graph(Sim3Batch.stack(chained), graph, settings)
    report = LoopClosureReport(
        tuple(edges),
        len(used),
        result.num_iterations,
        result.cost_before,
        result.cost_after,
        result.converged,
        result.reason,
    )
    return result.nodes.unstack(), report
