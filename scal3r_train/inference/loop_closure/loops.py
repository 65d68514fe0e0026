"""Loop closure of a whole video, step by step: candidates, joint predictions of both ends, verdicts, the pose graph.

A loop chunk only reads the memories: it is predicted after them, so a candidate that turns out to be false has
changed nothing, and a video's frames are written to the memory as often with loop closure as without. Each candidate
is tested by the process that holds the chunk of its later frame; the other chunk's window travels there, thinned to
the pixels that alignment needs.

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
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.loop_closure.common_view import common_view_share
from scal3r_train.inference.loop_closure.edges import LoopEdge, close_loops, make_loop_edge
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.retrieval import LoopCandidate, find_loop_candidates
from scal3r_train.inference.loop_closure.windows import (
    DroppedPair,
    LoopWindows,
    loops_are_possible,
    plan_loop_windows,
)
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.prediction import ChunkPrediction, SavedPrediction
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe
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


def wants_loops(recipe: ReconstructionRecipe, layout: Layout) -> bool:
    """Whether loops are looked for, and there can be one."""
    return recipe.loop_closure.enabled and loops_are_possible(layout.ranges)


def find_and_close_loops(
    run: ReconstructionRun,
    schedule: SegmentSchedule,
    descriptors: FrameDescriptors,
    predictions: Mapping[int, SavedPrediction],
    seams: Sequence[Seam],
    scales: ChunkScales | None,
) -> ClosedLoops:
    """Find, test and close loops; every process must call this, and all get the same answer.

    Args:
        run: of the video.
        schedule: of this process, its memories updated.
        descriptors: of this process's frames.
        predictions: of this process's chunks.
        seams: of all chunks.
        scales: of all chunks, if they were estimated together.

    Raises:
        UserError: on all processes, when a descriptor or a camera on any of them is not finite.
    """
    candidates, windows, dropped = _candidates(run, descriptors, spliced=schedule.measures_motion)
    second_ends = _exchange(run, predictions, windows)
    edges: dict[int, LoopEdge] = {}
    qualities = [seam.quality for seam in seams]
    with raise_on_all_ranks():
        own = [number for number, window in enumerate(windows) if window.first_chunk in run.chunks]
        for number in run.track(own):
            window = windows[number]
            prediction = _predict_loop(run, schedule, window)
            first = _end(run, predictions, window.first_chunk, window.first_frames)
            ends = {window.first_chunk: first, window.second_chunk: second_ends[number]}
            edges[window.candidate] = _judge(run, window, prediction, ends, qualities)
    found = {candidate: edge for others in gather_to_all(edges) for candidate, edge in others.items()}
    order = sorted(found)
    closed, report = from_main(
        lambda: close_loops(
            seams, [found[number] for number in order], run.layout.ranges, run.recipe.pose_graph, scales
        )
    )
    verdicts: dict[int, dict[str, Any]] = {
        number: edge.as_dict() for number, edge in zip(order, report.edges, strict=True)
    }
    verdicts |= {pair.candidate: {"accepted": False, "reason": pair.reason} for pair in dropped}
    loops = tuple({**_candidate_dict(candidates[number]), **verdicts[number]} for number in sorted(verdicts))
    accepted = tuple(edge for edge in report.edges if edge.accepted)
    return ClosedLoops(closed, loops, report.as_dict() if accepted else None, accepted)


def _candidates(
    run: ReconstructionRun, descriptors: FrameDescriptors, *, spliced: bool
) -> tuple[tuple[LoopCandidate, ...], list[LoopWindows], list[DroppedPair]]:
    """Return the candidates, the loop chunks that test them, and those that need none."""
    settings, ranges = run.recipe.loop_closure, run.layout.ranges
    with raise_on_all_ranks():
        own = {chunk: descriptors.of(chunk).half() for chunk in run.chunks}
    everyone = {chunk: part for parts in gather_to_all(own) for chunk, part in parts.items()}
    ordered = torch.cat([everyone[chunk].float() for chunk in range(len(ranges))])
    candidates = from_main(lambda: find_loop_candidates(ordered, settings)).candidates
    pairs = [(candidate.later, candidate.earlier) for candidate in candidates]
    windows, dropped = plan_loop_windows(pairs, ranges, settings.window_size, spliced=spliced)
    return candidates, windows, dropped


def _exchange(
    run: ReconstructionRun, predictions: Mapping[int, SavedPrediction], windows: Sequence[LoopWindows]
) -> dict[int, ChunkGeometry]:
    """Return the second end of every loop chunk that some process tests, by its place in `windows`."""
    with raise_on_all_ranks():
        own = {
            number: _end(run, predictions, window.second_chunk, window.second_frames)
            for number, window in enumerate(windows)
            if window.second_chunk in run.chunks
        }
    travelling = {number: end for number, end in own.items() if windows[number].first_chunk not in run.chunks}
    return own | {number: end for others in gather_to_all(travelling) for number, end in others.items()}


def _end(
    run: ReconstructionRun, predictions: Mapping[int, SavedPrediction], chunk: int, frames: range
) -> ChunkGeometry:
    """Return what alignment needs of some frames of a chunk."""
    start = run.layout.ranges[chunk].start
    part = predictions[chunk].frames(slice(frames.start - start, frames.stop - start))
    return _thinned(ChunkGeometry.of(part, frames, run.recipe.points))


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
