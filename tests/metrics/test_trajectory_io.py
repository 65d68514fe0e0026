"""Trajectory files: round trips to the bit, evo and scipy as readers, one-line refusals, matching by time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from evo.core.sync import matching_time_indices
from evo.tools import file_interface
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scal3r_train.config import UserError
from scal3r_train.metrics.trajectory_io import (
    Trajectory,
    match_timestamps,
    match_trajectories,
    read_trajectory,
    write_trajectory,
)


def make_trajectory(num_poses: int = 9, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(Rotation.random(num_poses, rng=rng).as_matrix())
    centres = torch.from_numpy(100 * rng.standard_normal((num_poses, 3, 1)))
    timestamps = 1311868164.363181 + torch.arange(num_poses, dtype=torch.float64) / 30
    return Trajectory(torch.cat([rotation, centres], dim=-1), timestamps)


def test_tum_round_trip(tmp_path: Path) -> None:
    trajectory = make_trajectory()
    write_trajectory(tmp_path / "t.txt", trajectory, "tum")
    again = read_trajectory(tmp_path / "t.txt")
    assert again.timestamps is not None
    assert trajectory.timestamps is not None
    assert torch.equal(again.timestamps, trajectory.timestamps)
    torch.testing.assert_close(again.world_from_cam, trajectory.world_from_cam, rtol=0, atol=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]  # no temporary file is left


def test_kitti_round_trip_and_frame_numbers_as_times(tmp_path: Path) -> None:
    trajectory = Trajectory(make_trajectory().world_from_cam, None)
    write_trajectory(tmp_path / "k.txt", trajectory, "kitti")
    again = read_trajectory(tmp_path / "k.txt")
    assert again.timestamps is None
    assert torch.equal(again.world_from_cam, trajectory.world_from_cam)
    write_trajectory(tmp_path / "t.txt", trajectory, "tum")
    assert read_trajectory(tmp_path / "t.txt").timestamps.tolist() == list(range(9))


def test_evo_reads_what_we_write(tmp_path: Path) -> None:
    trajectory = make_trajectory()
    write_trajectory(tmp_path / "t.txt", trajectory, "tum")
    write_trajectory(tmp_path / "k.txt", trajectory, "kitti")
    tum = file_interface.read_tum_trajectory_file(tmp_path / "t.txt")
    kitti = file_interface.read_kitti_poses_file(tmp_path / "k.txt")
    for path in (tum, kitti):
        poses = torch.from_numpy(np.stack(path.poses_se3))[:, :3]
        torch.testing.assert_close(poses, trajectory.world_from_cam, rtol=0, atol=1e-9)


def test_comments_blank_lines_unsorted_times_and_long_quaternions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("# comment\n\n2.5 1 2 3 0 0 2 2\n  # another\n1 0 0 0 0 0 0 -3\n")
    trajectory = read_trajectory(path)
    assert trajectory.timestamps.tolist() == [1, 2.5]
    expected = torch.tensor([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]], dtype=torch.float64)
    torch.testing.assert_close(trajectory.world_from_cam[1], expected)


def test_matrices_of_16_numbers_are_those_of_12(tmp_path: Path) -> None:
    rows = ["1 0 0 4 0 1 0 5 0 0 1 6", "0 0 1 1 0 1 0 2 -1 0 0 3"]
    (tmp_path / "kitti.txt").write_text("\n".join(rows))
    (tmp_path / "square.txt").write_text("\n".join(f"{row} 0 0 0 1" for row in rows))
    kitti, square = (read_trajectory(tmp_path / name) for name in ("kitti.txt", "square.txt"))
    assert torch.equal(kitti.world_from_cam, square.world_from_cam)
    assert square.timestamps is None


GOOD_TUM, GOOD_KITTI = "0 0 0 0 0 0 0 1\n", "1 0 0 0 0 1 0 0 0 0 1 0\n"


@pytest.mark.parametrize(
    "text",
    [
        "time tx ty tz qx qy qz qw\n0 1 2 3 0 0 0 1\n1 2 2 3 0 0 0 1\n",
        "0,1,2,3,0,0,0,1\r\n1,2,2,3,0,0,0,1\r\n",
        "0\t1.0D+00\t2\t3\t0\t0\t0\t1\n1; 2; 2; 3; 0; 0; 0; 1;\n\n",
        "# x\n 0 1 2 3 0 0 0 1\n 1 2 2 3 0 0 0 1",
    ],
)
def test_numbers_may_be_divided_as_people_divide_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text(text, newline="")
    got = read_trajectory(tmp_path / "gt.txt")
    assert got.timestamps is not None and got.timestamps.tolist() == [0, 1]
    assert got.world_from_cam[:, :, 3].tolist() == [[1, 2, 3], [2, 2, 3]]


def test_a_last_row_may_be_computed(tmp_path: Path) -> None:
    rows = "1 0 0 0 0 1 0 0 0 0 1 0 1e-17 0 -0.0 0.9999999999\n"
    (tmp_path / "gt.txt").write_text(rows * 2)
    assert len(read_trajectory(tmp_path / "gt.txt")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no poses"),
        ("# only a comment\n", "has no poses"),
        (GOOD_TUM + "1 2 three 4 5 6 7 8\n", "line 2: 'three' is no number"),
        (GOOD_TUM + "1_0 0 0 0 0 0 0 1\n", "line 2: '1_0' is no number"),
        (
            "#t, p_x, p_y, p_z, q_w, q_x, q_y, q_z\n" + GOOD_TUM,
            "has the quaternion as w x y z, TUM's is x y z w",
        ),
        ("1403636579763555584,0,0,0,1,0,0,0\n", "has times in nanoseconds (1403636579763555584)"),
        ("1 2 3\n", "line 1: 3 numbers, but TUM has 8 and KITTI 12"),
        (" ".join("1" * 15), "line 1: 15 numbers"),
        (GOOD_KITTI.strip() + " 0 0 0 2", "line 1: the 4 x 4 matrix does not end with 0 0 0 1"),
        ("# c\n" + GOOD_TUM + GOOD_KITTI, "line 3: 12 numbers after lines of 8"),
        (GOOD_TUM + "1 nan 0 0 0 0 0 1\n", "line 2: a number is not finite"),
        (GOOD_TUM + "1 0 0 0 0 0 0 0\n", "line 2: a quaternion of zeros"),
        (GOOD_KITTI + "2 0 0 0 0 2 0 0 0 0 2 0\n", "line 2: the 3 x 3 block is no rotation"),
        (GOOD_KITTI + "1 0 0 0 0 1 0 0 0 0 -1 0\n", "line 2: the 3 x 3 block is no rotation"),
    ],
)
def test_what_is_no_trajectory_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_trajectory(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x80\x81\x00\xff")
    for path in (tmp_path / "missing.txt", tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match="cannot be read as a trajectory"):
            read_trajectory(path)


def test_formats_do_not_mix_and_frame_counts_must_agree() -> None:
    timed = make_trajectory(9)
    counted, shorter = Trajectory(timed.world_from_cam, None), Trajectory(timed.world_from_cam[:7], None)
    with pytest.raises(UserError, match="the estimate is in KITTI format .* the ground truth in TUM format"):
        match_trajectories(counted, timed, 0.01)
    with pytest.raises(UserError, match="the ground truth is in KITTI format .* the estimate in TUM format"):
        match_trajectories(timed, counted, 0.01)
    with pytest.raises(UserError, match="the estimate has 7 poses, the ground truth 9"):
        match_trajectories(shorter, counted, 0.01)
    assert len(match_trajectories(counted, counted, 0.01).estimate) == 9


def test_poses_without_partner_are_counted() -> None:
    truth = make_trajectory(30)
    kept = torch.tensor([0, 3, 4, 9, 20])
    estimate = Trajectory(truth.world_from_cam[kept], truth.timestamps[kept] + 0.004)
    estimate.timestamps[4] += 100
    matched = match_trajectories(estimate, truth, 0.01)
    assert (matched.num_unmatched_estimate, matched.num_unmatched_truth) == (1, 26)
    assert torch.equal(matched.estimate, matched.truth)
    with pytest.raises(UserError, match="no timestamps match within 0.001 s"):
        match_trajectories(estimate, truth, 0.001)


@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(st.integers(0, 60), min_size=1, max_size=25),
    second=st.lists(st.integers(0, 60), min_size=1, max_size=25),
    limit=st.integers(0, 9),
)
def test_matching_is_that_of_evo(first: list[int], second: list[int], limit: int) -> None:
    """Every pose of the smaller series with the nearest of the other; times repeat and tie here."""
    estimate, truth = torch.tensor(sorted(first)).double(), torch.tensor(sorted(second)).double()
    ours = match_timestamps(estimate, truth, limit)
    swap = len(truth) < len(estimate)
    short, long = (truth, estimate) if swap else (estimate, truth)
    in_short, in_long = matching_time_indices(short.numpy(), long.numpy(), limit)
    ours_short, ours_long = (ours[1], ours[0]) if swap else ours
    assert ours_short.tolist() == list(in_short)
    assert (short[ours_short] - long[ours_long]).abs().tolist() == (
        short[in_short] - long[in_long]
    ).abs().tolist()
    assert (ours_long.diff() >= 0).all()
