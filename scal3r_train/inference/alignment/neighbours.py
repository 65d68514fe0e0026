"""The seams of all chunks that one process holds: the chunk that follows each of them, aligned to it.

Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import Seam, align_chunks
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

    Raises:
        UserError: cameras have to be used for a seam and are not finite.
    """
    seams = {}
    for number in track(predictions):
        later_number = number + 1
        if later_number == len(ranges):
            continue
        if later_number in predictions:
            later = overlap_head(predictions[later_number], later_number, ranges)
        else:
            later = heads[later_number]
        shared = range(ranges[later_number].start, ranges[number].stop)
        earlier = predictions[number].frames(slice(shared.start - ranges[number].start, None))
        seams[number] = align_chunks(
            ChunkGeometry.of(earlier, shared, source), ChunkGeometry.of(later, shared, source), settings
        )
    return seams
