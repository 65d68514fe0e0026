"""Which frames are predicted together to test a loop candidate: a loop chunk (docs/numerics.md#loop-windows).

A loop chunk holds a window of frames at each end of the candidate, cut from one chunk each, so that every frame of it
can be compared with a chunk that holds it too. Windows lie around the candidate's frames; or, for a network that
measures the motion between neighbours, the first ends and the second begins with them, so that the two most alike
frames are neighbours and the whole reads as one drive.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoopWindows:
    """The two windows of a loop chunk.

    Attributes:
        candidate: which of the pairs it tests.
        first_chunk, first_frames: the chunk of the pair's first frame, and the window cut from it.
        second_chunk, second_frames: the same of its second frame.
    """

    candidate: int
    first_chunk: int
    first_frames: range
    second_chunk: int
    second_frames: range

    @property
    def frames(self) -> list[int]:
        """Frames of the loop chunk in the order that it is built: the first window, then the second."""
        return [*self.first_frames, *self.second_frames]


@dataclass(frozen=True)
class DroppedPair:
    """A candidate that needs no loop chunk, and why."""

    candidate: int
    reason: str


def plan_loop_windows(
    pairs: Sequence[tuple[int, int]],
    ranges: Sequence[range],
    window_size: int,
    *,
    allow_shared_frames: bool = False,
    spliced: bool = False,
) -> tuple[list[LoopWindows], list[DroppedPair]]:
    """Return the loop chunks that test the pairs, in their order, and the pairs that need none.

    Args:
        pairs: frames (first, second) of each candidate, better ones first.
        ranges: frames of every chunk, ascending.
        window_size: frames of a window; a chunk that is shorter gives all of its frames.
        allow_shared_frames: test pairs of chunks that share frames, as the reference release does. Their seam joins
            them already, and their windows may hold a frame twice.
        spliced: the first windows end, and the second begin, with the candidate's frames.
    """
    planned: list[LoopWindows] = []
    dropped: list[DroppedPair] = []
    of_chunks: dict[tuple[int, int], list[LoopWindows]] = defaultdict(list)
    for number, (first, second) in enumerate(pairs):
        a = first_chunk_with(first, ranges) if spliced else last_chunk_with(first, ranges)
        c = last_chunk_with(second, ranges)
        if spliced:
            ends = _window_up_to(first, ranges[a], window_size), _window_from(second, ranges[c], window_size)
        else:
            ends = _window(first, ranges[a], window_size), _window(second, ranges[c], window_size)
        windows = LoopWindows(number, a, ends[0], c, ends[1])
        earlier = of_chunks[min(a, c), max(a, c)]
        if a == c:
            dropped.append(DroppedPair(number, f"both frames lie in chunk {a}"))
        elif not allow_shared_frames and _overlap(ranges[a], ranges[c]):
            dropped.append(DroppedPair(number, f"chunks {a} and {c} share frames: their seams join them"))
        elif rival := next((other for other in earlier if _same_place(windows, other)), None):
            dropped.append(DroppedPair(number, f"its windows overlap those of candidate {rival.candidate}"))
        else:
            planned.append(windows)
            earlier.append(windows)
    return planned, dropped


def loops_are_possible(ranges: Sequence[range]) -> bool:
    """Whether two of the chunks share no frame; if not, frames need no descriptors at all."""
    return len(ranges) > 1 and not _overlap(ranges[0], ranges[-1])


def last_chunk_with(frame: int, ranges: Sequence[range]) -> int:
    """Return the last chunk that starts at or before a frame."""
    return bisect_right(ranges, frame, key=lambda chunk: chunk.start) - 1


def first_chunk_with(frame: int, ranges: Sequence[range]) -> int:
    """Return the first chunk that ends after a frame."""
    return bisect_right(ranges, frame, key=lambda chunk: chunk.stop)


def _window_up_to(frame: int, chunk: range, size: int) -> range:
    """Return at most `size` frames of the chunk, the last of them `frame`."""
    return range(max(chunk.start, frame + 1 - size), frame + 1)


def _window_from(frame: int, chunk: range, size: int) -> range:
    """Return at most `size` frames of the chunk, the first of them `frame`."""
    return range(frame, min(chunk.stop, frame + size))


def _window(frame: int, chunk: range, size: int) -> range:
    """Return at most `size` frames of the chunk around a frame, moved inwards at the chunk's ends."""
    half = size // 2
    if frame - half < chunk.start:
        return range(chunk.start, min(chunk.stop, chunk.start + size))
    if frame + half > chunk.stop:
        return range(max(chunk.start, chunk.stop - size), chunk.stop)
    return range(frame - half, frame + half)


def _same_place(windows: LoopWindows, other: LoopWindows) -> bool:
    """Whether two loop chunks of the same two chunks overlap in both windows."""
    windows_of_other = (other.first_frames, other.second_frames)
    if windows.first_chunk != other.first_chunk:
        windows_of_other = windows_of_other[::-1]
    return _overlap(windows.first_frames, windows_of_other[0]) and _overlap(
        windows.second_frames, windows_of_other[1]
    )


def _overlap(a: range, b: range) -> bool:
    """Whether two ranges share a number."""
    return max(a.start, b.start) < min(a.stop, b.stop)
