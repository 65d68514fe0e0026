"""Loop closure of a whole video, step by step: candidates, joint predictions of both ends, verdicts, the pose graph.

A loop chunk only reads the memories: it is predicted after them, so a candidate that turns out to be false has
changed nothing, and a video's frames are written to the memory as often with loop closure as without. Each candidate
is tested by the process that holds the chunk of its first frame (the later one); the other chunk's window travels
there, thinned to the pixels that alignment needs.

With `loop_closure.rules: release` loop chunks are planned first (loop_plan.py) and predicted with all others, to whose
memories they write; here they only become edges (release_rules.py).

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.chunk_scales import ChunkScales
from scal3r_train.inference.alignment.seam import Seam, SeamQuality
from scal3r_train.inference.loop_closure.common_view import common_view_share
from scal3r_train.inference.loop_closure.edges import (
    LoopClosureReport,
    LoopEdge,
    close_loops,
    make_loop_edge,
)
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.loop_plan import LoopPlan, loop_predictions, plan_loops
from scal3r_train.inference.loop_closure.release_rules import close_unjudged, unjudged_edge
from scal3r_train.inference.loop_closure.retrieval import LoopCandidate
from scal3r_train.inference.loop_closure.windows import LoopWindows
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.prediction import ChunkPrediction, SavedPrediction
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.parallel.collectives import from_main, gather_to_all, raise_on_all_ranks

PIXELS_PER_FRAME = 4096


@dataclass(frozen=True, eq=False)
class ClosedLoops:
    """What loop closure found.

    Attributes:
        first_from_chunk: of every chunk, after the accepted loops were closed.
        loops: every candidate with its verdict, best first, as scene.json keeps them.
        pose_graph: the solver's account; None when no loop was accepted.
        accepted: the loops that were closed.
    """

    first_from_chunk: list[Sim3]
    loops: tuple[dict[str, Any], ...]
    pose_graph: dict[str, Any] | None
    accepted: tuple[LoopEdge, ...] = ()


def find_and_close_loops(
    run: ReconstructionRun,
    schedule: SegmentSchedule,
    descriptors: FrameDescriptors,
    predictions: Mapping[int, SavedPrediction],
    seams: Sequence[Seam],
    scales: ChunkScales | None,
    written: LoopPlan | None,
) -> ClosedLoops:
    """Find, test and close loops; every process must call this, and all get the same answer.

    Args:
        run: of the video.
        schedule: of this process, its memories updated.
        descriptors: of this process's frames.
        predictions: of this process's chunks.
        seams: of all chunks.
        scales: of all chunks, if they were estimated together.
        written: the plan whose loop chunks are predicted already, because they wrote; None: none is.

    Raises:
        UserError: on all processes, when a descriptor or a camera on any of them is not finite.
    """
    plan = plan_loops(run, descriptors) if written is None else written
    windows, second_ends = plan.windows, _exchange(run, predictions, plan.windows)
    edges: dict[int, LoopEdge] = {}
    qualities = [seam.quality for seam in seams]
    with raise_on_all_ranks():
        for number in run.track(plan.of_chunks(run.chunks)):
            window = windows[number]
            first = _end(run, predictions, window.first_chunk, window)
            ends = {window.first_chunk: first, window.second_chunk: second_ends[number]}
            if written is None:
                edge = _judge(run, window, _predict_loop(run, schedule, window), ends, qualities)
            else:
                prediction = loop_predictions(run)[number].frames(slice(None))
                loop = ChunkGeometry.of(prediction, window.frames, run.recipe.points)
                edge = unjudged_edge(ends, loop, run.recipe.alignment)
            edges[window.candidate] = edge
    found = {candidate: edge for others in gather_to_all(edges) for candidate, edge in others.items()}
    order = sorted(found)
    ordered = [found[number] for number in order]
    settings = run.recipe.pose_graph

    def close() -> tuple[list[Sim3], LoopClosureReport]:
        if written is None:
            return close_loops(seams, ordered, run.layout.ranges, settings, scales)
        firsts = {window.candidate: window.first_chunk for window in windows}
        return close_unjudged(seams, ordered, [firsts[number] for number in order], settings.graph)

    closed, report = from_main(close)
    verdicts: dict[int, dict[str, Any]] = {
        number: edge.as_dict() for number, edge in zip(order, report.edges, strict=True)
    }
    verdicts |= {pair.candidate: {"accepted": False, "reason": pair.reason} for pair in plan.dropped}
    loops = tuple(
        {**_candidate_dict(plan.candidates[number]), **verdicts[number]} for number in sorted(verdicts)
    )
    accepted = tuple(edge for edge in report.edges if edge.accepted)
    return ClosedLoops(closed, loops, report.as_dict() if accepted else None, accepted)


def _exchange(
    run: ReconstructionRun, predictions: Mapping[int, SavedPrediction], windows: Sequence[LoopWindows]
) -> dict[int, ChunkGeometry]:
    """Return the second end of every loop chunk that some process tests, by its place in `windows`."""
    with raise_on_all_ranks():
        own = {
            number: _end(run, predictions, window.second_chunk, window)
            for number, window in enumerate(windows)
            if window.second_chunk in run.chunks
        }
    travelling = {number: end for number, end in own.items() if windows[number].first_chunk not in run.chunks}
    return own | {number: end for others in gather_to_all(travelling) for number, end in others.items()}


def _end(
    run: ReconstructionRun, predictions: Mapping[int, SavedPrediction], chunk: int, window: LoopWindows
) -> ChunkGeometry:
    """Return what alignment needs of the frames that a chunk shares with a loop chunk.

    Where the two chunks of a loop share frames, these are more than the chunk's window. By the release's rules all
    pixels, else fewer.
    """
    of_chunk = run.layout.ranges[chunk]
    shared = [frame for frame in window.frames if frame in of_chunk]
    frames = range(min(shared), max(shared) + 1)
    part = predictions[chunk].frames(slice(frames.start - of_chunk.start, frames.stop - of_chunk.start))
    geometry = ChunkGeometry.of(part, frames, run.recipe.points)
    return geometry if run.recipe.loop_closure.rules == "release" else _thinned(geometry)


def _predict_loop(run: ReconstructionRun, schedule: SegmentSchedule, window: LoopWindows) -> ChunkPrediction:
    """Return the joint prediction of both windows."""
    both = (window.first_frames, window.second_frames)
    prediction = schedule.read_only(torch.cat([run.video.images(frames) for frames in both]))
    return prediction.with_known(run.video.known_intrinsics(window.frames), run.video.masks(window.frames))


def _judge(
    run: ReconstructionRun,
    window: LoopWindows,
    prediction: ChunkPrediction,
    ends: Mapping[int, ChunkGeometry],
    seams: Sequence[SeamQuality],
) -> LoopEdge:
    """Return the edge that a loop chunk gives, with its verdict; `ends` are the two chunks by number."""
    recipe = run.recipe
    loop = _thinned(ChunkGeometry.of(prediction, window.frames, recipe.points))
    edge = make_loop_edge(ends, loop, seams, recipe.alignment, recipe.pose_graph)
    share = common_view_share(prediction, len(window.first_frames))
    least = recipe.loop_closure.min_common_view
    if edge.accepted and share < least:
        reason = f"the two ends see {share:.0%} of each other's surfaces, less than {least:.0%}"
        return replace(edge, accepted=False, reason=reason)
    return edge


def _thinned(geometry: ChunkGeometry) -> ChunkGeometry:
    """Return about PIXELS_PER_FRAME pixels of every frame, on a grid."""
    num_pixels = geometry.valid[0].numel()
    step = max(1, round((num_pixels / PIXELS_PER_FRAME) ** 0.5))
    return ChunkGeometry(
        geometry.frame_indices,
        geometry.world_points[:, ::step, ::step].clone(),
        geometry.confidence[:, ::step, ::step].clone(),
        geometry.valid[:, ::step, ::step].clone(),
        geometry.extrinsics,
    )


def _candidate_dict(candidate: LoopCandidate) -> dict[str, Any]:
    return {"frames": [candidate.earlier, candidate.later], "similarity": candidate.similarity}
