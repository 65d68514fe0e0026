"""Loop chunks: windows at the ends of chunks, what is dropped and why (the reference's tables are goldens)."""

from __future__ import annotations

import random

import pytest

from scal3r_train.inference.chunking import chunk_ranges
from scal3r_train.inference.loop_closure.windows import loops_are_possible, plan_loop_windows

RANGES = chunk_ranges(300, 60, 30)


def test_a_window_lies_around_its_frame_and_within_its_chunk() -> None:
    planned, dropped = plan_loop_windows([(100, 275), (30, 299)], RANGES, 20)
    assert dropped == []
    assert [(w.first_chunk, w.second_chunk) for w in planned] == [(3, 8), (1, 8)]
    assert (planned[0].first_frames, planned[0].second_frames) == (range(90, 110), range(265, 285))
    assert (planned[1].first_frames, planned[1].second_frames) == (range(30, 50), range(280, 300))
    assert planned[0].frames == [*range(90, 110), *range(265, 285)]


@pytest.mark.parametrize(("size", "overlap"), [(60, 30), (16, 4), (6, 5), (5, 1)])
def test_spliced_windows_meet_at_the_pair_and_lie_in_one_chunk_each(size: int, overlap: int) -> None:
    ranges = chunk_ranges(120, size, overlap)
    pairs = [(first, second) for first in range(70, 120, 7) for second in range(0, 20, 3)]
    planned, _ = plan_loop_windows(pairs, ranges, 8, spliced=True)
    assert planned
    for windows in planned:
        first, second = pairs[windows.candidate]
        assert windows.first_frames[-1] == first and windows.second_frames[0] == second
        for chunk, frames in (
            (windows.first_chunk, windows.first_frames),
            (windows.second_chunk, windows.second_frames),
        ):
            assert set(frames) <= set(ranges[chunk])
            assert min(8, overlap) <= len(frames) <= 8 or frames.stop == 120


def test_dropped_pairs_say_why() -> None:
    pairs = [(100, 275), (105, 105), (95, 125), (277, 103), (275, 12)]
    planned, dropped = plan_loop_windows(pairs, RANGES, 20)
    assert [w.candidate for w in planned] == [0, 4]
    assert [d.candidate for d in dropped] == [1, 2, 3]
    assert "chunk 3" in dropped[0].reason
    assert "share frames" in dropped[1].reason
    assert "candidate 0" in dropped[2].reason


@pytest.mark.parametrize(("size", "overlap"), [(60, 30), (8, 4), (6, 5), (5, 1), (3, 2)])
def test_windows_of_random_pairs(size: int, overlap: int) -> None:
    choose = random.Random(0)
    for num_frames in (size + 1, 3 * size, 101):
        ranges = chunk_ranges(num_frames, size, overlap)
        pairs = [(choose.randrange(num_frames), choose.randrange(num_frames)) for _ in range(50)]
        planned, dropped = plan_loop_windows(pairs, ranges, 20)
        assert sorted(x.candidate for x in [*planned, *dropped]) == list(range(50))
        assert bool(planned) <= loops_are_possible(ranges)
        for w in planned:
            assert len(set(w.frames)) == len(w.frames)
            for frame, chunk, window in zip(
                pairs[w.candidate],
                (w.first_chunk, w.second_chunk),
                (w.first_frames, w.second_frames),
                strict=True,
            ):
                assert frame in window
                assert set(window) <= set(ranges[chunk])
                assert len(window) == min(20, len(ranges[chunk]))


@pytest.mark.parametrize(("num_frames", "possible"), [(1, False), (60, False), (90, False), (91, True)])
def test_a_video_of_chunks_that_all_share_frames_has_no_loops(num_frames: int, possible: bool) -> None:
    assert loops_are_possible(chunk_ranges(num_frames, 60, 30)) == possible
