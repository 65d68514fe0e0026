"""What every process measures in frames of its own chunks, for one answer of all: centres, heights, depth ratios.

Each function is called by every process and returns the measurements of all of them, by frame. Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.metric.camera_height import down_in_world, ground_height, looked_at
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.metric.sensor_depth import median_ratio, sensor_depth
from scal3r_train.inference.prediction import ChunkPrediction, SavedPrediction
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks

MAX_DEPTH_FRAMES = 200  # compared with the sensor's, evenly spread over those that have a map


def centres(
    run: ReconstructionRun,
    frames: Sequence[int],
    predictions: Mapping[int, SavedPrediction],
    after: Mapping[int, ChunkPrediction],
    placement: Placement,
) -> dict[int, Tensor]:
    """Return the camera centres [3] of some frames just as the scene will state them, fused where two chunks decide."""
    own: dict[int, Tensor] = {}
    with raise_on_all_ranks():
        for number in predictions:
            later = after.get(number + 1) or predictions.get(number + 1)
            for frame in frames:
                placed = []
                if frame in placement.layout.own[number]:
                    here = range(frame, frame + 1)
                    placed = list(placement.own_frames(number, predictions[number], here, run.recipe))
                elif later is not None and frame in placement.layout.shared[number]:
                    placed = list(placement.shared_frames(number, predictions[number], later, run.recipe))
                for part in placed:
                    if frame in part.frames:
                        own[frame] = part.world_from_cam[frame - part.frames.start, :, 3]
    return {frame: centre for part in gather_to_all(own) for frame, centre in part.items()}


def heights(
    run: ReconstructionRun,
    cameras: ChunkCameras,
    predictions: Mapping[int, SavedPrediction],
    placement: Placement,
) -> dict[int, float]:
    """Return the heights above the ground by frame, in the scene's unit, where one is seen."""
    world_from_cam = cameras.world_from_cam(placement.world_from_chunk)
    down = down_in_world(world_from_cam)
    wanted = looked_at(run.video.num_frames)

    def measure(frame: int, part: ChunkPrediction) -> float | None:
        in_camera = world_from_cam[frame, :, :3].T @ down
        return ground_height(part.depth[0], part.usable[0], part.intrinsics[0], in_camera, seed=frame)

    return _by_frame(run, wanted, predictions, placement, measure, lambda value, scale: value * scale)


def depth_ratios(
    run: ReconstructionRun,
    record: SequenceRecord,
    predictions: Mapping[int, SavedPrediction],
    placement: Placement,
) -> dict[int, float]:
    """Return sensor / predicted by frame, in metres per unit of the scene; `record` names the sensor's maps."""
    video = run.video
    with_map = [frame for frame, index in enumerate(video.frame_indices) if record.depth[index]]
    wanted = with_map[:: max(1, -(-len(with_map) // MAX_DEPTH_FRAMES))]

    def measure(frame: int, part: ChunkPrediction) -> float | None:
        depth = sensor_depth(record, video.frame_indices[frame])
        if depth is None:
            return None
        sensor = video.at_processed_size(frame, depth)
        return median_ratio(sensor, part.depth[0].double().numpy(), part.usable[0].numpy())

    return _by_frame(run, wanted, predictions, placement, measure, lambda value, scale: value / scale)


def _by_frame(
    run: ReconstructionRun,
    wanted: Sequence[int],
    predictions: Mapping[int, SavedPrediction],
    placement: Placement,
    measure: Callable[[int, ChunkPrediction], float | None],
    in_scene: Callable[[float, float], float],
) -> dict[int, float]:
    """Measure in the chunk that provides each frame; `in_scene` takes a value and the chunk's scale to the scene's."""
    own: dict[int, float] = {}
    chosen = set(wanted)
    with raise_on_all_ranks():
        for number, frame in run.track(list(_provided(predictions, placement, chosen))):
            start = placement.layout.ranges[number].start
            part = predictions[number].frames(slice(frame - start, frame - start + 1))
            value = measure(frame, part)
            if value is not None:
                own[frame] = in_scene(value, float(placement.world_from_chunk[number].scale))
    return {frame: value for part in gather_to_all(own) for frame, value in part.items()}


def _provided(
    predictions: Mapping[int, SavedPrediction], placement: Placement, chosen: set[int]
) -> Iterator[tuple[int, int]]:
    for number in predictions:
        for frame in placement.layout.provided[number]:
            if frame in chosen:
                yield number, frame
