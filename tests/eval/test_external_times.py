"""Poses of another system find their frames by time, each frame once, in whatever order the index has them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_eval.methods import Estimate, Run, load_estimate
from scal3r_eval.recipe import ExternalMethod, SequenceSettings
from scal3r_eval.sequences import EvalSequence, choose_frames
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from tests.eval.conftest import WriteRecipe
from tests.eval.evaluating import FIRST, run, truth_of


@pytest.fixture
def record(towns: Path) -> SequenceRecord:
    return load_index(towns).find(FIRST)


def estimate(folder: Path, sequence: EvalSequence, poses: torch.Tensor, times: np.ndarray) -> Estimate:
    """What an external method with one file of poses [N, 3, 4] at times [N] says."""
    write_trajectory(folder / f"{FIRST}.tum", Trajectory(poses, torch.from_numpy(times)), "tum")
    settings = ExternalMethod(kind="external", folder=folder)
    return load_estimate(Run("other", 0, settings, folder, folder), sequence, 0.01)


def test_of_poses_nearest_to_one_frame_the_nearest_stays(record: SequenceRecord, tmp_path: Path) -> None:
    sequence = choose_frames(record, SequenceSettings())
    frames, gaps = [3, 3, 3, 9, 9, 12], np.array([0.004, -0.001, 0.002, 0.003, 0.003, 0.0])
    poses = truth_of(record, 20)[frames].clone()
    poses[:, 0, 3] = torch.arange(6)
    found = estimate(tmp_path, sequence, poses, record.timestamp[frames] + gaps)
    assert found.places.tolist() == [3, 9, 12]
    assert found.world_from_cam[:, 0, 3].tolist() == [1, 3, 5]


def test_lines_that_are_there_twice_are_no_coverage(
    write_recipe: WriteRecipe, record: SequenceRecord, tmp_path: Path
) -> None:
    """Eleven poses of 4 of 20 frames: fewer than the half that a score needs."""
    frames = sorted([0, 5, 10] * 3 + [15, 15])
    times = torch.from_numpy(record.timestamp[frames])
    write_trajectory(tmp_path / f"{FIRST}.tum", Trajectory(truth_of(record, 20)[frames], times), "tum")
    recipe = write_recipe(
        sequences={"names": [FIRST], "max_frames": 20},
        methods={"other": {"kind": "external", "folder": str(tmp_path)}},
    )
    results = run(recipe)
    assert "4 of 20 frames have a pose" in str(results.failures[0]["reason"])
    lenient = run(recipe, "protocol.min_coverage=0.2").scores["other"][FIRST][0]
    assert lenient.num_poses == 4


@pytest.mark.parametrize("num_poses", [20, 12])
def test_times_of_an_index_in_any_order(record: SequenceRecord, tmp_path: Path, num_poses: int) -> None:
    """As for views of a rig or of a photo collection: frames not by time."""
    shuffled = dataclasses.replace(record, timestamp=np.random.default_rng(1).permutation(record.timestamp))
    sequence = choose_frames(shuffled, SequenceSettings())
    by_time = np.argsort(shuffled.timestamp)[:num_poses]
    poses = sequence.truth[torch.from_numpy(by_time)]
    found = estimate(tmp_path, sequence, poses, shuffled.timestamp[by_time])
    assert found.places.tolist() == sorted(by_time.tolist())
    torch.testing.assert_close(found.world_from_cam, sequence.truth[found.places])
