"""A path with poses on some frames alone is measured over the steps and segments of the whole path."""

import pytest
import torch

from scal3r_train.metrics.relative_pose import RpeStep
from scal3r_train.metrics.trajectory import find_segments, score_trajectory, segment_errors
from tests.metrics.test_trajectory import drive


def test_poses_on_some_frames_are_measured_over_the_steps_of_the_whole_path() -> None:
    """A drift that grows by the frame: poses on every 2nd frame, taken for neighbours, would drift twice as fast."""
    truth, estimate = drive(400, 1.0), drive(400, 1.03, 0.0201)
    whole = {delta: score_trajectory(estimate, truth, "none", RpeStep(delta)) for delta in (1, 2)}
    frames = torch.arange(0, 400, 2)
    naive = score_trajectory(estimate[frames], truth[frames], "none")
    assert naive.rpe_translation_m == pytest.approx(whole[2].rpe_translation_m)
    assert naive.rpe_translation_m > 1.9 * whole[1].rpe_translation_m
    next_frame = score_trajectory(estimate[frames], truth[frames], "none", frames=frames)
    assert (next_frame.rpe_translation_m, next_frame.num_rpe_pairs) == (None, 0)
    two_on = score_trajectory(estimate[frames], truth[frames], "none", RpeStep(2), frames=frames)
    assert (two_on.rpe_translation_m, two_on.num_rpe_pairs) == (naive.rpe_translation_m, 199)
    some = torch.tensor([*range(0, 100), *range(101, 400, 3)])
    gaps = score_trajectory(estimate[some], truth[some], "none", frames=some)
    assert gaps.num_rpe_pairs == 99
    assert gaps.rpe_translation_m == pytest.approx(whole[1].rpe_translation_m, rel=1e-6)
    assert score_trajectory(estimate, truth, "none", frames=torch.arange(400)) == whole[1]


def test_segments_of_some_frames_start_where_those_of_all_frames_do() -> None:
    """By a path of 1 m a frame: at frames 0, 10, .., or the first pose after them; 40 to 59 have none."""
    frames = torch.tensor([frame for frame in range(0, 1000, 2) if not 40 <= frame < 60 and frame != 20])
    centres = torch.zeros(len(frames), 3, dtype=torch.float64)
    centres[:, 0] = frames
    first, last, length = find_segments(centres, frames)
    expected = [22 if frame == 20 else frame for frame in range(0, 900, 10) if frame not in (40, 50)]
    assert frames[first].unique().tolist() == [frame for frame in expected if frame + 100 < 998]
    assert ((frames[last] - frames[first]) == length + 2).all()
    poses = torch.eye(3, 4, dtype=torch.float64).repeat(len(frames), 1, 1)
    poses[..., 3] = centres
    found, naive = segment_errors(poses, poses, frames), segment_errors(poses, poses)
    assert found is not None and naive is not None
    assert found.num_segments == len(first) > 1.5 * naive.num_segments
