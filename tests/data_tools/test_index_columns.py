"""Sums over whole columns against the same sums, sequence by sequence, in numpy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from scal3r_data_tools.summary import counts_frames, num_named_files, path_lengths
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.sequence import SequenceRecord
from tests.data.index.test_index import make_record


def records(tmp_path: Path) -> list[SequenceRecord]:
    """Seven sequences of one to nine frames; some without poses, depth or order, one that counts its frames."""
    made = [replace(make_record(tmp_path, f"s{num}", num), is_ordered=True) for num in (3, 1, 9, 4, 5, 2, 6)]
    made[1] = replace(made[1], depth=(), depth_codec="")
    made[3] = replace(made[3], cam_from_world=None)
    made[4] = replace(made[4], is_ordered=False)
    made[5] = replace(made[5], timestamp=np.array([3.0, 4.0]))
    return made


@pytest.fixture(params=[100, 2], ids=["one piece", "pieces"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> SequenceIndex:
    path = tmp_path / "index.parquet"
    write_index(path, records(tmp_path))
    if request.param == 2:
        import datasets

        table = pyarrow.parquet.read_table(path)
        parts = [datasets.Dataset(table.slice(first, 2)) for first in range(0, len(table), 2)]
        loaded = SequenceIndex(str(path), datasets.concatenate_datasets(parts))
        assert loaded.frame_column("image").num_chunks > 1
        return loaded
    return load_index(path, tmp_path / "cache")


def test_ways_are_those_between_camera_centres(index: SequenceIndex, tmp_path: Path) -> None:
    expected = []
    for record in records(tmp_path):
        if record.cam_from_world is None or not record.is_ordered:
            expected.append(np.nan)
            continue
        centres = np.array([-pose[:, :3].T @ pose[:, 3] for pose in record.cam_from_world])
        expected.append(sum(float(np.linalg.norm(b - a)) for a, b in zip(centres, centres[1:], strict=False)))
    assert expected[1] == 0
    assert path_lengths(index) == pytest.approx(expected, nan_ok=True)


def test_a_pose_that_is_not_finite_spoils_its_own_sequence_only(tmp_path: Path) -> None:
    made = records(tmp_path)
    write_index(tmp_path / "whole.parquet", made)
    expected = path_lengths(load_index(tmp_path / "whole.parquet", tmp_path / "cache"))
    assert made[2].cam_from_world is not None
    made[2].cam_from_world[4, 0, 3] = np.nan
    write_index(tmp_path / "spoiled.parquet", made)
    expected[2] = np.nan
    found = path_lengths(load_index(tmp_path / "spoiled.parquet", tmp_path / "cache"))
    assert found == pytest.approx(expected, nan_ok=True)


def test_only_frames_with_a_name_count(index: SequenceIndex, tmp_path: Path) -> None:
    expected = [sum(name != "" for name in record.depth) for record in records(tmp_path)]
    assert expected[1] == 0 and expected[2] == 8
    assert num_named_files(index, "depth").tolist() == expected


def test_whole_numbers_are_no_clock(index: SequenceIndex) -> None:
    assert counts_frames(index).tolist() == [False, False, False, False, False, True, False]
