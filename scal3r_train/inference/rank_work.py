"""What one process does with its own chunks: predict them, join them to their neighbours, place their frames.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scal3r_train.inference.alignment.neighbours import align_neighbours, overlap_head
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.loop_plan import LoopPlan, loop_predictions, wants_loops
from scal3r_train.inference.network.chunk_runner import ChunkRunner, state_bytes
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import StatePlan, free_memory, open_store, plan_states
from scal3r_train.inference.prediction import (
    ChunkPrediction,
    PredictionFolder,
    SavedPrediction,
    refuse_non_finite,
)
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.collectives import from_main, gather_to_all, raise_on_all_ranks, world_group
from scal3r_train.parallel.context_groups import connect_memories
from scal3r_train.parallel.host_memory import launched_sizes
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
        """Return the result of no frames."""
        none = torch.zeros(0, 3, 4, dtype=torch.float64)
        return RankResult(none, none[:, :, :3], PointCloud.empty(), {})

    def with_cameras_of(self, other: RankResult) -> RankResult:
        """Return this result with the cameras of the frames that follow, but without their points."""
        return replace(
            self,
            world_from_cam=torch.cat([self.world_from_cam, other.world_from_cam]),
            intrinsics=torch.cat([self.intrinsics, other.intrinsics]),
        )


def plan_chunk_states(
    run: ReconstructionRun, chunk_runner: ChunkRunner, written: LoopPlan | None = None
) -> StatePlan:
    """Return where all processes keep the states of their chunks: the same on each, for the tightest of them.

    With `written` loop chunks are among these.
    """
    launched, processes = launched_sizes(), len(run.layout.assignment)
    local = launched.local_world_size if launched else processes  # started by a test: all on this machine
    free = gather_to_all(free_memory(run.device, run.folder, local, processes))
    size = state_bytes(
        chunk_runner.config,
        chunk_runner.heads,
        max(*map(len, run.layout.ranges), 0 if written is None else written.most_frames),
        chunk_runner.grid(run.video.image_hw),
        chunk_runner.state_dtype.itemsize,
    )
    tightest = min(free, key=lambda one: (min(one.device, one.host), one.disk))
    most_chunks = max(
        len(own) + (0 if written is None else len(written.of_chunks(own))) for own in run.layout.assignment
    )
    settings = run.recipe.schedule
    return plan_states(settings.state, most_chunks, size, tightest, settings.state_limit_gib)


def predict_chunks_of_rank(
    run: ReconstructionRun,
    chunk_runner: ChunkRunner,
    descriptors: FrameDescriptors,
    plan: StatePlan,
    written: LoopPlan | None = None,
) -> tuple[PredictionFolder, SegmentSchedule]:
    """Return the predictions of this process's chunks, remembering those of all processes.

    They lie in the run's work folder, as do the memories, the states of a disk store and the frames' descriptors. What
    an earlier run has left there is not computed again. The schedule holds the memories, for those who only read them.
    Descriptors are made in passing, unless loop chunks are planned already (`written`): these then run after the
    chunks, and write to the memories as they do; `loop_predictions` has what they predict.

    Raises:
        UserError: on all processes, when a prediction on any of them is not finite.
    """
    connect_memories(chunk_runner.model, world_group())
    video, layout, chunks, folder = run.video, run.layout, run.chunks, run.work_folder
    predictions = PredictionFolder(folder / "predictions")
    of_loops = None if written is None else loop_predictions(run)
    num_chunks = len(layout.ranges)  # from here on numbers are those of loop chunks
    windows = [] if written is None else written.windows

    def images(chunk: int) -> Tensor:
        if chunk >= num_chunks:
            window = windows[chunk - num_chunks]
            return torch.cat([video.images(window.first_frames), video.images(window.second_frames)])
        found = video.images(layout.ranges[chunk])
        if chunk + 1 in chunks:
            video.prefetch(layout.ranges[chunk + 1])
        return found

    store = open_store(plan.store, run.device, folder / "states")
    schedule = SegmentSchedule(chunk_runner, images, store, run.recipe.schedule.frames_per_pass, folder)

    def keep(number: int, prediction: ChunkPrediction) -> None:
        if of_loops is not None and number >= num_chunks:
            frames = windows[number - num_chunks].frames
            of_loops.save(number - num_chunks, with_what_is_known(prediction, number, video, frames))
        else:
            predictions.save(number, with_what_is_known(prediction, number, video, layout.ranges[number]))

    describe = descriptors.describe if written is None and wants_loops(run.recipe, layout) else None
    done = {*predictions, *(num_chunks + loop for loop in of_loops or ())}
    loops = [] if written is None else [num_chunks + loop for loop in written.of_chunks(chunks)]
    everything = [*chunks, *loops]
    schedule.run(everything, keep, run.track, describe, done, run.stages.expect_loops)
    return predictions, schedule


def with_what_is_known(
    prediction: ChunkPrediction, number: int, video: Video, frames: Sequence[int]
) -> ChunkPrediction:
    """Return the prediction of chunk `number` with the user's cameras and masks; UserError when it is not finite."""
    refuse_non_finite(prediction, number, frames)
    return prediction.with_known(video.known_intrinsics(frames), video.masks(frames))


def overlap_after(
    run: ReconstructionRun, predictions: Mapping[int, SavedPrediction]
) -> dict[int, ChunkPrediction]:
    """Return the first overlap of the chunk that follows this process's chunks, by its number; empty at the end.

    Every process receives that of every other, for a moment: 8 bytes for each pixel of `overlap` frames (16 more with
    the point head's map) times the number of processes.
    """
    first = min(predictions, default=0)
    with raise_on_all_ranks():
        head = {first: overlap_head(predictions[first], first, run.layout.ranges)} if first > 0 else {}
    heads = {number: found for others in gather_to_all(head) for number, found in others.items()}
    following = max(predictions, default=-1) + 1
    return {following: heads[following]} if following in heads else {}


def join_chunks(
    run: ReconstructionRun,
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
) -> Placement:
    """Align all neighbouring chunks, each pair on the process that holds the earlier one.

    Args:
        run: of the video.
        predictions: this process's.
        after: `overlap_after` them.
    """
    ranges, recipe = run.layout.ranges, run.recipe
    origin = None
    with raise_on_all_ranks():
        seams = align_neighbours(predictions, after, ranges, recipe.alignment, recipe.points, run.track)
        if 0 in predictions:
            chunk = predictions[0].frames(slice(None))
            origin = chunk.extrinsics[0], float(chunk.depth.median())
    findings = gather_to_all((seams, origin))
    all_seams = {number: seam for found, _ in findings for number, seam in found.items()}
    ordered = [all_seams[number] for number in range(len(ranges) - 1)]
    first_extrinsics, median_depth = next(origin for _, origin in findings if origin is not None)
    return from_main(
        lambda: Placement.along_seams(run.layout, ordered, first_extrinsics, median_depth, recipe)
    )


def place_chunks_of_rank(
    run: ReconstructionRun,
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
    placement: Placement,
) -> RankResult:
    """Return the cameras and points of the frames that this process's chunks decide.

    The frames shared with the next chunk belong to the earlier one's process, which has `after` of the next. Depth is
    written into the run's folder if wanted.
    """
    export = run.recipe.export
    cloud = VoxelDownsampler(voxel_size_of(run.recipe, placement), export.max_points, export.seed)
    result = RankResult.nothing()
    for number in run.track(predictions):
        later = after.get(number + 1) or predictions.get(number + 1)
        for placed in placement.decided_frames(number, predictions[number], later, run.recipe):
            part = write_placed(run, placed)
            result = result.with_cameras_of(part)
            cloud.add(part.points)
    return replace(result, points=cloud.result(), peak_memory_bytes=peak_memory())


def write_placed(run: ReconstructionRun, placed: PlacedFrames) -> RankResult:
    """Return cameras and points, not thinned, of some frames; depth is written into the run's folder if wanted."""
    export = run.recipe.export
    if export.save_depth:
        for row, frame in enumerate(placed.frames):
            write_depth(run.folder, frame, placed.depth[row].numpy(), placed.depth_conf[row].numpy())
    images = run.video.images(placed.frames)
    return RankResult(
        placed.world_from_cam,
        run.video.input_intrinsics(placed.frames, placed.intrinsics),
        placed.coloured_points(images, export.min_confidence_ratio),
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
