"""One process's share of a reconstruction: its chunks predicted, joined to their neighbours, placed in the world.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.align import Seam
from scal3r_train.inference.chunk_pass import ChunkPass, state_bytes
from scal3r_train.inference.frame_descriptors import FrameDescriptors
from scal3r_train.inference.layout import Layout
from scal3r_train.inference.loops import wants_loops
from scal3r_train.inference.point_cloud import PointCloud, thin
from scal3r_train.inference.prediction import ChunkPrediction, refuse_non_finite
from scal3r_train.inference.prediction_files import PredictionFolder, SavedPrediction
from scal3r_train.inference.progress import Track
from scal3r_train.inference.scene import write_depth
from scal3r_train.inference.schedule import SegmentSchedule
from scal3r_train.inference.settings import ExportSettings, ReconstructionRecipe
from scal3r_train.inference.state_plan import StatePlan, free_memory, plan_states
from scal3r_train.inference.state_store import open_store
from scal3r_train.inference.stitch import (
    align_neighbours,
    coloured_points,
    overlap_head,
    place_chunks,
    place_frames,
)
from scal3r_train.inference.video import Video
from scal3r_train.parallel.collectives import gather_to_all
from scal3r_train.parallel.context_groups import connect_memories
from scal3r_train.parallel.world import same_fate, world_group

VOXELS_PER_MEDIAN_DEPTH = 500
BYTES_PER_KIB = 1024


@dataclass(frozen=True, eq=False)
class Placement:
    """Where all chunks lie.

    Attributes:
        world_from_chunk: of every chunk.
        seams: how each chunk but the first joins the one before it.
        median_depth: of chunk 0, in world units: the size of what the camera sees.
    """

    world_from_chunk: list[Sim3]
    seams: list[Seam]
    median_depth: float

    def moved(self, first_from_chunk: Sequence[Sim3]) -> Placement:
        """Return the placement with chunks elsewhere relative to the first, which stays."""
        first = self.world_from_chunk[0]
        return replace(self, world_from_chunk=[first @ other for other in first_from_chunk])


@dataclass(frozen=True, eq=False)
class Share:
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
    def nothing() -> Share:
        """Return the share of no frames."""
        none = torch.zeros(0, 3, 4, dtype=torch.float64)
        return Share(none, none[:, :, :3], PointCloud.empty(), {})


def plan_share(
    chunk_pass: ChunkPass, video: Video, layout: Layout, recipe: ReconstructionRecipe, folder: Path
) -> StatePlan:
    """Return where all processes keep the states of their chunks: the same on each, for the tightest of them."""
    free = gather_to_all(free_memory(chunk_pass.device, folder))
    size = state_bytes(
        chunk_pass.config,
        chunk_pass.heads,
        max(map(len, layout.ranges)),
        chunk_pass.grid(video.image_hw),
        chunk_pass.state_dtype.itemsize,
    )
    tightest = min(free, key=lambda one: (min(one.device, one.host), one.disk))
    most_chunks = max(map(len, layout.assignment))
    return plan_states(recipe.schedule.state, most_chunks, size, tightest, recipe.schedule.state_limit_gib)


def predict_share(
    chunk_pass: ChunkPass,
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
    connect_memories(chunk_pass.model, world_group())
    predictions = PredictionFolder(folder / "predictions")

    def images(chunk: int) -> Tensor:
        found = video.images(layout.ranges[chunk])
        if chunk + 1 in chunks:
            video.prefetch(layout.ranges[chunk + 1])
        return found

    store = open_store(plan.store, chunk_pass.device, folder / "states")
    descriptors = FrameDescriptors(recipe.loop_closure, chunk_pass, video, layout, folder / "descriptors")
    schedule = SegmentSchedule(chunk_pass, images, store, recipe.schedule.frames_per_pass, folder)

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


def join_chunks(
    predictions: Mapping[int, SavedPrediction], layout: Layout, recipe: ReconstructionRecipe
) -> Placement:
    """Align all neighbouring chunks, each pair on the process that holds the earlier one.

    Every process receives the first overlap of every other's first chunk: 8 bytes for each pixel of `overlap`
    frames (16 more with the point head's map) times the number of processes.
    """
    first = min(predictions, default=0)
    with same_fate():
        head = {first: overlap_head(predictions[first], first, layout.ranges)} if first > 0 else {}
    heads = {number: found for others in gather_to_all(head) for number, found in others.items()}
    origin = None
    with same_fate():
        seams = align_neighbours(predictions, heads, layout.ranges, recipe.alignment, recipe.points)
        if 0 in predictions:
            chunk = predictions[0].frames(slice(None))
            origin = chunk.extrinsics[0], float(chunk.depth.median())
    findings = gather_to_all((seams, origin))
    all_seams = {number: seam for found, _ in findings for number, seam in found.items()}
    ordered = [all_seams[number] for number in range(len(layout.ranges) - 1)]
    first_extrinsics, median_depth = next(origin for _, origin in findings if origin is not None)
    return Placement(place_chunks(ordered, first_extrinsics), ordered, median_depth)


def place_share(
    predictions: Mapping[int, SavedPrediction],
    video: Video,
    layout: Layout,
    placement: Placement,
    recipe: ReconstructionRecipe,
    folder: Path,
    track: Track,
) -> Share:
    """Return the cameras and points that this process's chunks provide; writes depth into `folder` if wanted."""
    cloud = PointSieve.for_export(voxel_size_of(recipe, placement), recipe.export)
    cameras, intrinsics = [Share.nothing().world_from_cam], [Share.nothing().intrinsics]
    for number in track(predictions):
        chunk, frames, world = (
            layout.ranges[number],
            layout.provided[number],
            placement.world_from_chunk[number],
        )
        part = place_part(predictions[number], chunk, frames, world, video, recipe, folder)
        cameras.append(part.world_from_cam)
        intrinsics.append(part.intrinsics)
        cloud.add(part.points)
    return Share(torch.cat(cameras), torch.cat(intrinsics), cloud.result(), peak_memory())


def place_part(
    prediction: ChunkPrediction | SavedPrediction,
    chunk: range,
    frames: range,
    world_from_chunk: Sim3,
    video: Video,
    recipe: ReconstructionRecipe,
    folder: Path,
) -> Share:
    """Return cameras and points, not thinned, of some `frames` of a chunk.

    Their depth is written into `folder` if wanted.
    """
    if not frames:
        return Share.nothing()
    placed = place_frames(prediction, chunk, frames, world_from_chunk, recipe.points)
    if recipe.export.save_depth:
        for row, frame in enumerate(frames):
            write_depth(folder, frame, placed.depth[row].numpy(), placed.depth_conf[row].numpy())
    return Share(
        placed.world_from_cam,
        video.input_intrinsics(frames, placed.intrinsics),
        coloured_points(placed, video.images(frames), recipe.export.min_confidence_ratio),
        {},
    )


def voxel_size_of(recipe: ReconstructionRecipe, placement: Placement) -> float:
    """Return the edge of the voxels that thin the points, in world units."""
    chosen = recipe.export.voxel_size
    return placement.median_depth / VOXELS_PER_MEDIAN_DEPTH if chosen is None else chosen


class PointSieve:
    """Collects clouds and keeps few points of them, in memory bounded by the sieve's size and one cloud."""

    def __init__(self, voxel_size: float, max_points: int, seed: int) -> None:
        """Thin as `point_cloud.thin` does with these arguments."""
        self._thinning = (voxel_size, max_points, seed)
        self._clouds: list[PointCloud] = []
        self._max_points = max_points

    @staticmethod
    def for_export(voxel_size: float, export: ExportSettings) -> PointSieve:
        """Return the sieve that the settings ask for."""
        return PointSieve(voxel_size, export.max_points, export.seed)

    def add(self, cloud: PointCloud) -> None:
        """Take in a cloud."""
        self._clouds.append(thin(cloud, *self._thinning))
        if sum(map(len, self._clouds)) > 2 * self._max_points:
            self._clouds = [self.result()]

    def result(self) -> PointCloud:
        """Return what is kept of all clouds together, ordered by source."""
        return thin(PointCloud.join(self._clouds), *self._thinning)


def peak_memory() -> dict[str, int]:
    """Return the most bytes that this process has used on the host and, if there is one, on its device."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_KIB}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak
