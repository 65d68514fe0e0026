"""Chunks cover a video as docs/numerics.md#chunks says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scal3r_train.config import UserError, load_config
from scal3r_train.inference.chunking import Layout, ScheduleSettings, chunk_ranges
from scal3r_train.inference.input.settings import InputSettings


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    chunk_size = draw(st.integers(2, 40))
    return draw(st.integers(1, 300)), chunk_size, draw(st.integers(1, chunk_size - 1))


@given(cuts())
def test_chunks_follow_the_specification(cut: tuple[int, int, int]) -> None:
    num_frames, chunk_size, overlap = cut
    ranges = chunk_ranges(num_frames, chunk_size, overlap)
    if num_frames <= chunk_size:
        assert ranges == [range(num_frames)]
        return
    step = chunk_size - overlap
    assert len(ranges) == math.ceil((num_frames - overlap) / step)
    assert [(chunk.start, chunk.stop) for chunk in ranges] == [
        (k * step, min(k * step + chunk_size, num_frames)) for k in range(len(ranges))
    ]


@given(cuts())
def test_neighbours_share_exactly_the_overlap_and_everything_is_covered(cut: tuple[int, int, int]) -> None:
    num_frames, chunk_size, overlap = cut
    ranges = chunk_ranges(num_frames, chunk_size, overlap)
    assert sorted({frame for chunk in ranges for frame in chunk}) == list(range(num_frames))
    for earlier, later in zip(ranges, ranges[1:], strict=False):
        assert len(set(earlier) & set(later)) == overlap
        assert len(later) > overlap


@given(cuts(), st.integers(1, 9))
def test_every_frame_is_provided_once_and_every_chunk_held_once(
    cut: tuple[int, int, int], num_processes: int
) -> None:
    num_frames, chunk_size, overlap = cut
    settings = ScheduleSettings(chunk_size=chunk_size, overlap=overlap)
    layout = Layout.plan(num_frames, settings, num_processes)
    assert [frame for frames in layout.provided for frame in frames] == list(range(num_frames))
    for number, (chunk, frames) in enumerate(zip(layout.ranges, layout.provided, strict=True)):
        assert set(frames) <= set(chunk)
        for frame in frames:
            started = [
                k for k in range(1, len(layout.ranges)) if frame >= layout.ranges[k].start + overlap // 2
            ]
            assert number == max(started, default=0)
    # Decided by one chunk, by two, by one, ...; all of them once, and by chunks that have them.
    decided = [layout.own[0]]
    for number, frames in enumerate(layout.shared):
        assert frames
        assert set(frames) <= set(layout.ranges[number]) & set(layout.ranges[number + 1])
        assert layout.provided[number + 1].start == frames.start + len(frames) // 2
        decided += [frames, layout.own[number + 1]]
    assert [frame for frames in decided for frame in frames] == list(range(num_frames))
    assert all(set(own) <= set(chunk) for own, chunk in zip(layout.own, layout.ranges, strict=True))
    assert [k for chunks in layout.assignment for k in chunks] == list(range(len(layout.ranges)))
    for chunks in layout.assignment:
        covered = {frame for k in chunks for frame in layout.ranges[k]}
        assert set(layout.frames_of(chunks)) == covered


def test_overlap_must_be_smaller_than_a_chunk() -> None:
    with pytest.raises(UserError, match="overlap = 8 must be less than chunk_size = 8"):
        load_config(ScheduleSettings, None, ["chunk_size=8", "overlap=8"])


def test_frames_are_chosen() -> None:
    chosen = InputSettings(start=2, stop=11, stride=3, max_frames=2)
    assert chosen.frame_indices(100) == [2, 5]
    assert InputSettings(stop=50).frame_indices(3) == [0, 1, 2]
    with pytest.raises(UserError, match=r"input.start = 3 lies beyond the video's 3 frames"):
        InputSettings(start=3).frame_indices(3)
