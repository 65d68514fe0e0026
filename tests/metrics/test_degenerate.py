"""Paths that no number can be given for: refused or named, as evo refuses them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from evo.core.trajectory import PosePath3D

from scal3r_eval.score_trajectory import score_files
from scal3r_train.config import UserError
from scal3r_train.metrics.trajectory import alignment_warnings, score_trajectory


def path_of(places: np.ndarray) -> torch.Tensor:
    """Poses without rotation at some places [S, 3]."""
    poses = np.tile(np.eye(3, 4), (len(places), 1, 1))
    poses[:, :, 3] = places
    return torch.from_numpy(poses)


RANDOM = np.random.default_rng(0).normal(size=(20, 3))
LINE = np.outer(np.arange(20.0), [2.0, 0, 0])  # along an axis: off it, evo takes rounding for a spread
STILL = np.tile([[4.0, 5.0, 6.0]], (20, 1))
TWO = np.tile([[4.0, 5.0, 6.0], [4.0, 5.0, 7.0]], (10, 1))


def evo_refuses(estimate: torch.Tensor, truth: torch.Tensor) -> bool:
    """Whether evo finds no alignment; its rule is a rank below 2."""
    full = [
        torch.cat([one, torch.tensor([[[0.0, 0, 0, 1]]], dtype=torch.float64).expand(len(one), 1, 4)], 1)
        for one in (estimate, truth)
    ]
    ours, theirs = (PosePath3D(poses_se3=list(poses.numpy())) for poses in full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours.align(theirs, correct_scale=True)
        except Exception as error:
            return "egenerate" in str(error)
    return False


@pytest.mark.parametrize(
    ("estimate", "truth", "refused", "named"),
    [
        (RANDOM, RANDOM, "", []),
        (RANDOM, STILL, "never moves", ["ground truth does not move"]),
        (RANDOM, TWO, "has 2 different positions", ["ground truth is a straight line"]),
        (RANDOM, LINE, "", ["ground truth is a straight line"]),
        (LINE, RANDOM, "", ["estimate is a straight line"]),
        (STILL, RANDOM, "", ["estimate does not move"]),
        (STILL, LINE, "", ["estimate does not move", "ground truth is a straight line"]),
    ],
)
def test_degenerate_paths_are_refused_or_named(
    estimate: np.ndarray, truth: np.ndarray, refused: str, named: list[str]
) -> None:
    ours, theirs = path_of(estimate), path_of(truth)
    found = alignment_warnings(ours, theirs, "sim3")
    assert len(found) == len(named)
    assert all(one.startswith(start) for one, start in zip(found, named, strict=True))
    assert bool(found) == evo_refuses(ours, theirs), "what evo refuses is named here"
    if refused:
        with pytest.raises(
            UserError, match=f"the ground truth {refused}, so that aligned errors mean nothing"
        ):
            score_trajectory(ours, theirs)
    else:
        assert score_trajectory(ours, theirs).num_poses == 20
    assert score_trajectory(ours, theirs, "none").num_poses == 20
    assert alignment_warnings(ours, theirs, "none") == []


def numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def write(path: Path, times: list[float], digits: int) -> Path:
    rows = [
        f"{time:.{digits}f} {place[0]} {place[1]} {place[2]} 0 0 0 1\n"
        for time, place in zip(times, RANDOM, strict=True)
    ]
    path.write_text("".join(rows))
    return path


def test_times_with_too_few_digits_are_refused(tmp_path: Path) -> None:
    times = [1403636579.763555 + 0.05 * number for number in range(20)]
    good = write(tmp_path / "good.tum", times, 6)
    for digits in (0, 1):
        rounded = write(tmp_path / "rounded.tum", times, digits)
        with pytest.raises(
            UserError, match="different times for 20 poses, so that nobody can say which pose is whose"
        ):
            score_files(rounded, good)
    lines = good.read_text().splitlines(keepends=True)
    twice = tmp_path / "twice.tum"
    twice.write_text("".join(lines + lines[:3]))
    assert score_files(twice, good)["ate_rmse_m"] < 1e-9, "a logger may repeat a line"


def test_shares_and_warnings_are_in_the_result(tmp_path: Path) -> None:
    times = [float(number) for number in range(20)]
    good = write(tmp_path / "good.tum", times, 3)
    part = tmp_path / "part.tum"
    part.write_text("".join(good.read_text().splitlines(keepends=True)[:15]))
    result = score_files(part, good)
    assert result["matched_share_estimate"] == 1
    assert result["matched_share_ground_truth"] == 0.75
    assert result["warnings"] == []


def test_a_line_far_from_the_origin_is_still_a_line() -> None:
    """Map coordinates: rounding must not count as a spread."""
    far = path_of(np.outer(np.arange(20.0), [1.0, 2.0, -0.5]) + [448_000.0, 5_411_000.0, 120.0])
    assert alignment_warnings(far, path_of(RANDOM), "sim3")[0].startswith("estimate is a straight line")
