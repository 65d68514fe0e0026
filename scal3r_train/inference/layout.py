"""Which frames form which chunk, who holds it, and whose result is kept: a pure function of a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from scal3r_train.inference.align import provider_chunk_of_frame
from scal3r_train.inference.chunking import ScheduleSettings, chunk_ranges
from scal3r_train.parallel.chunk_assignment import assign_chunks


@dataclass(frozen=True)
class Layout:
    """How a video is cut.

    Attributes:
        ranges: frames of every chunk.
        provided: frames of every chunk that it says most about; together all frames, once.
        shared: frames that each chunk but the last decides together with the next one: the overlap, or of an overlap of
            more than half a chunk the middle.
        own: frames that each chunk decides alone; with the shared ones together all frames, once.
        assignment: chunks of every process, consecutive; processes beyond the number of chunks have none.
    """

    ranges: tuple[range, ...]
    provided: tuple[range, ...]
    shared: tuple[range, ...]
    own: tuple[range, ...]
    assignment: tuple[range, ...]

    @staticmethod
    def plan(num_frames: int, settings: ScheduleSettings, num_processes: int) -> Layout:
        """Return the layout of a video of `num_frames` frames."""
        ranges = chunk_ranges(num_frames, settings.chunk_size, settings.overlap)
        providers = provider_chunk_of_frame(num_frames, ranges, settings.overlap)
        starts = [providers.index(number) for number in range(len(ranges))]
        stops = [*starts[1:], num_frames]
        provided = [range(start, stop) for start, stop in zip(starts, stops, strict=True)]
        shared = [shared_window(chunk.start, settings) for chunk in ranges[1:]]
        bounds = [0, *(bound for frames in shared for bound in (frames.start, frames.stop)), num_frames]
        own = [range(start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True)]
        assignment = assign_chunks(len(ranges), num_processes)
        return Layout(tuple(ranges), tuple(provided), tuple(shared), tuple(own), tuple(assignment))

    def frames_of(self, chunks: range) -> range:
        """Return the frames that consecutive chunks cover together; empty for no chunks."""
        if not chunks:
            return range(0)
        return range(self.ranges[chunks[0]].start, self.ranges[chunks[-1]].stop)


def shared_window(start: int, settings: ScheduleSettings) -> range:
    """Return the frames that a chunk from frame `start` on decides together with the one before it.

    They lie around the middle of the overlap, and no further than to the next chunk's.
    """
    length = min(settings.overlap, settings.chunk_size - settings.overlap)
    first = start + settings.overlap // 2 - length // 2
    return range(first, first + length)
