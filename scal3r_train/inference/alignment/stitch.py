"""From chunks in their own coordinates to one world: seams, and where they put the chunks.

World: the camera of frame 0 (OpenCV axes) in the units of chunk 0. The reference release uses chunk 0's middle
frame; a user who opens a trajectory expects it to start at the origin.

Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import Seam, align_chunks, chain
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.prediction import ChunkPrediction, PointSource, SavedPrediction
from scal3r_train.inference.progress import Track


def overlap_head(
    prediction: ChunkPrediction | SavedPrediction, number: int, ranges: Sequence[range]
) -> ChunkPrediction:
    """Return the frames of chunk `number` that the chunk before it has too."""
    return prediction.frames(slice(0, ranges[number - 1].stop - ranges[number].start))


def align_neighbours(
    predictions: Mapping[int, ChunkPrediction | SavedPrediction],
    heads: Mapping[int, ChunkPrediction],
    ranges: Sequence[range],
    settings: AlignmentSettings,
    source: PointSource,
    track: Track = iter,
) -> dict[int, Seam]:
    """Return for every given chunk but the last of the video the seam that joins its successor to it.

    Args:
        predictions: this process's chunks by number.
        heads: `overlap_head` of chunks that follow one of them and are held elsewhere.
        ranges: frames of all chunks.
        settings: of the alignment.
        source: which prediction gives the points.
        track: wraps the loop over chunks, for progress.
    """
    seams = {}
    for number in track(predictions):
        prediction = predictions[number]
        later_number = number + 1
        if later_number == len(ranges):
            continue
        if later_number in predictions:
            later = overlap_head(predictions[later_number], later_number, ranges)
        else:
            later = heads[later_number]
        shared = range(ranges[later_number].start, ranges[number].stop)
        earlier = prediction.frames(slice(shared.start - ranges[number].start, None))
        seams[number] = align_chunks(
            chunk_geometry(earlier, shared, source), chunk_geometry(later, shared, source), settings
        )
    return seams


def chunk_geometry(prediction: ChunkPrediction, frames: Sequence[int], source: PointSource) -> ChunkGeometry:
    """Return what alignment needs of a prediction of `frames`; every pixel with positive depth is valid."""
    points, confidence = prediction.points(source)
    return ChunkGeometry(frames, points, confidence, prediction.usable, prediction.extrinsics)


def place_chunks(seams: Sequence[Seam], first_extrinsics: Tensor) -> list[Sim3]:
    """Return world_from_chunk of all chunks.

    Args:
        seams: in order, one fewer than chunks.
        first_extrinsics: [3, 4] cam_from_chunk of frame 0 in chunk 0; its camera becomes the world.
    """
    world_from_first_chunk = Sim3.from_rigid(first_extrinsics)
    return [world_from_first_chunk @ first_from_chunk for first_from_chunk in chain(seams)]
