"""One process's share of a reconstruction: its chunks predicted, joined to their neighbours, placed in the world.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.inference.alignment.placement import PlacedFrames, Placement
from scal3r_train.inference.alignment.stitch import align_neighbours, overlap_head, place_chunks
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.loops import wants_loops
from scal3r_train.inference.network.chunk_runner import ChunkRunner, state_bytes
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import StatePlan, free_memory, open_store, plan_states
from scal3r_train.inference.prediction import (
    ChunkPrediction,
    PredictionFolder,
    SavedPrediction,
    refuse_non_finite,
)
from scal3r_train.inference.progress import Track
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks, world_group
from scal3r_train.parallel.context_groups import connect_memories
from scal3r_train.scene.point_cloud import PointCloud, VoxelDownsampler
from scal3r_train.scene.scene import write_depth

VOXELS_PER_MEDIAN_DEPTH = 500
BYTES_PER_KIB = 1024


@dataclass(frozen=True, eq=False)
class RankResult:
    """What one process contributes to the scene, frames ascending.

    Attributes:
        world_from_cam: [S, 3, 4] float64.
        intrinsics: [S, 3, 3] float64 in pixels of the input images.
        points: thinned.
        peak_memory_bytes: most memory used, by kind.
    """

    world_from_cam: Tensor
    intrinsics: Tensor
    points: PointCloud
    peak_memory_bytes: dict[str, int]

    @staticmethod
    def nothing() -> RankResult:
        """Return the share of no frames."""
        none = torch.zeros(0, 3, 4, dtype=torch.float64)
        return RankResult(none, none[:, :, :3], PointCloud.empty(), {})

    def with_cameras_of(self, other: RankResult) -> RankResult:
        """Return this share with the cameras of the frames that follow, but without their points."""
        return replace(
            self,
            world_from_cam=torch.cat([self.world_from_cam, other.world_from_cam]),
            intrinsics=torch.cat([self.intrinsics, other.intrinsics]),
        )


def plan_chunk_states(
    chunk_runner: ChunkRunner, video: Video, layout: Layout, recipe: ReconstructionRecipe, folder: Path
) -> StatePlan:
    """Return where all processes keep the states of their chunks: the same on each, for the tightest of them."""
    free = gather_to_all(free_memory(chunk_runner.device, folder))
    size = state_bytes(
        chunk_runner.config,
        chunk_runner.heads,
        max(map(len, layout.ranges)),
        chunk_runner.grid(video.image_hw),
        chunk_runner.state_dtype.itemsize,
    )
    tightest = min(free, key=lambda one: (min(one.device, one.host), one.disk))
    most_chunks = max(map(len, layout.assignment))
    return plan_states(recipe.schedule.state, most_chunks, size, tightest, recipe.schedule.state_limit_gib)


def predict_chunks_of_rank(
    chunk_runner: ChunkRunner,
    video: Video,
    chunks: range,
    layout: Layout,
    recipe: ReconstructionRecipe,
    plan: StatePlan,
    folder: Path,
    track: Track,
) -> tuple[PredictionFolder, SegmentSchedule, FrameDescriptors]:
    """Return the predictions of this process's chunks, remembering those of all processes.

    They lie in `folder`, as do the memories, the states of a disk store and the frames' descriptors. What an earlier
    run has left there is not computed again. The schedule holds the memories, for those who only read them.

    Raises:
        UserError: on all processes, when a prediction on any of them is not finite.
    """
    connect_memories(chunk_runner.model, world_group())
    predictions = PredictionFolder(folder / "predictions")

    def images(chunk: int) -> Tensor:
        found = video.images(layout.ranges[chunk])
        if chunk + 1 in chunks:
            video.prefetch(layout.ranges[chunk + 1])
        return found

    store = open_store(plan.store, chunk_runner.device, folder / "states")
    descriptors = FrameDescriptors(recipe.loop_closure, chunk_runner, video, layout, folder / "descriptors")
    schedule = SegmentSchedule(chunk_runner, images, store, recipe.schedule.frames_per_pass, folder)

    def keep(number: int, prediction: ChunkPrediction) -> None:
        predictions.save(number, with_what_is_known(prediction, number, video, layout.ranges[number]))

    describe = descriptors.saw_tokens if wants_loops(recipe, layout) else None
    schedule.run(chunks, keep, track, describe, done=predictions)
    return predictions, schedule, descriptors


def with_what_is_known(
    prediction: ChunkPrediction, number: int, video: Video, frames: range
) -> ChunkPrediction:
    """Return the prediction of chunk `number` with the user's cameras and masks; UserError when it is not finite."""
    refuse_non_finite(prediction, number, frames)
    return prediction.with_known(video.known_intrinsics(frames), video.masks(frames))


def overlap_after(predictions: Mapping[int, SavedPrediction], layout: Layout) -> dict[int, ChunkPrediction]:
    """Return the first overlap of the chunk that follows this process's chunks, by its number; empty at the end.

    Every process receives that of every other, for a moment: 8 bytes for each pixel of `overlap` frames (16 more with
    the point head's map) times the number of processes.
    """
    first = min(predictions, default=0)
    with raise_on_all_ranks():
        head = {first: overlap_head(predictions[first], first, layout.ranges)} if first > 0 else {}
    heads = {number: found for others in gather_to_all(head) for number, found in others.items()}
    following = max(predictions, default=-1) + 1
    return {following: heads[following]} if following in heads else {}


def join_chunks(
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
    layout: Layout,
    recipe: ReconstructionRecipe,
    track: Track,
) -> Placement:
    """Align all neighbouring chunks, each pair on the process that holds the earlier one.

    Args:
        predictions: this process's.
        after: `overlap_after` them.
        layout: of the video.
        recipe: for the alignment.
        track: wraps the loop over seams, for progress.
    """
    origin = None
    with raise_on_all_ranks():
        seams = align_neighbours(predictions, after, layout.ranges, recipe.alignment, recipe.points, track)
        if 0 in predictions:
            chunk = predictions[0].frames(slice(None))
            origin = chunk.extrinsics[0], float(chunk.depth.median())
    findings = gather_to_all((seams, origin))
    all_seams = {number: seam for found, _ in findings for number, seam in found.items()}
    ordered = [all_seams[number] for number in range(len(layout.ranges) - 1)]
    first_extrinsics, median_depth = next(origin for _, origin in findings if origin is not None)
    return Placement(place_chunks(ordered, first_extrinsics), ordered, median_depth)


def place_chunks_of_rank(
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
    video: Video,
    layout: Layout,
    placement: Placement,
    recipe: ReconstructionRecipe,
    folder: Path,
    track: Track,
) -> RankResult:
    """Return the cameras and points of the frames that this process's chunks decide.

    The frames shared with the next chunk belong to the earlier one's process, which has `after` of the next. Depth is
    written into `folder` if wanted.
    """
    cloud = VoxelDownsampler(voxel_size_of(recipe, placement), recipe.export.max_points, recipe.export.seed)
    share = RankResult.nothing()
    for number in track(predictions):
        later = after.get(number + 1) or predictions.get(number + 1)
        for placed in placement.decided_frames(predictions[number], later, number, layout, recipe):
            part = write_placed(placed, video, recipe, folder)
            share = share.with_cameras_of(part)
            cloud.add(part.points)
    return replace(share, points=cloud.result(), peak_memory_bytes=peak_memory())


def write_placed(
    placed: PlacedFrames, video: Video, recipe: ReconstructionRecipe, folder: Path
) -> RankResult:
    """Return cameras and points, not thinned, of some frames; their depth is written into `folder` if wanted."""
    if recipe.export.save_depth:
        for row, frame in enumerate(placed.frames):
            write_depth(folder, frame, placed.depth[row].numpy(), placed.depth_conf[row].numpy())
    images = video.images(placed.frames)
    return RankResult(
        placed.world_from_cam,
        video.input_intrinsics(placed.frames, placed.intrinsics),
        placed.coloured_points(images, recipe.export.min_confidence_ratio),
        {},
    )


def voxel_size_of(recipe: ReconstructionRecipe, placement: Placement) -> float:
    """Return the edge of the voxels that thin the points, in world units."""
    chosen = recipe.export.voxel_size
    return placement.median_depth / VOXELS_PER_MEDIAN_DEPTH if chosen is None else chosen


def peak_memory() -> dict[str, int]:
    """Return the most bytes that this process has used on the host and, if there is one, on its device."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_KIB}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak
