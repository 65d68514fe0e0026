"""An index comes back as it was written, or says in one line what is wrong with it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.index import ROWS_PER_GROUP, load_index, write_index
from scal3r_train.data.sequence import SequenceRecord
from tests.forking import ForkServer


def make_record(root: Path, name: str = "a", num: int = 3) -> SequenceRecord:
    rng = np.random.default_rng(num)
    rotation = np.linalg.qr(rng.normal(size=(num, 3, 3)))[0]
    rotation *= np.linalg.det(rotation)[:, None, None]
    return SequenceRecord(
        dataset="test",
        sequence_id=name,
        split="val",
        root=root,
        image=tuple(f"{i}.png" for i in range(num)),
        image_size=np.array([[40, 60]] * num),
        timestamp=rng.normal(size=num),
        depth=tuple("" if i == 1 else f"{i}.d.png" for i in range(num)),
        depth_codec="uint16_mm",
        depth_scale=0.1,
        mask=tuple(f"{i}.m.png" for i in range(num)),
        mask_rule="below 1",
        sky_mask=tuple(f"{i}.s.png" for i in range(num)),
        sky_mask_rule="from 127",
        quarter_turns=1,
        covisible=np.roll(np.arange(num), 1)[:, None].repeat(2, 1),
        num_missing=3,
        max_depth_percentile=98.0,
        camera_model="pinhole",
        intrinsics=rng.uniform(1, 900, size=(num, 4)),
        distortion=rng.normal(size=(num, 5)),
        cam_from_world=np.concatenate([rotation, rng.normal(size=(num, 3, 1))], -1),
        pixel_centre="integer",
        is_ordered=False,
        is_metric=True,
        is_synthetic=True,
        is_dynamic=True,
        max_depth=12.5,
        licence="none",
        source="here",
    )


def assert_equal(got: SequenceRecord, expected: SequenceRecord) -> None:
    for field in dataclasses.fields(SequenceRecord):
        a, b = vars(got)[field.name], vars(expected)[field.name]
        if isinstance(b, np.ndarray):
            assert isinstance(a, np.ndarray)
            assert a.shape == b.shape, field.name
            assert (a == b).all(), field.name  # bit for bit
        else:
            assert a == b, field.name


def test_round_trip_is_exact(tmp_path: Path) -> None:
    full = make_record(tmp_path / "data", "full", 4)
    bare = SequenceRecord(
        dataset="test",
        sequence_id="bare",
        root=tmp_path.parent,
        image=("x.png",),
        image_size=np.array([[1, 2]]),
        timestamp=np.zeros(1),
    )
    write_index(tmp_path / "index.parquet", [full, bare])
    index = load_index(tmp_path / "index.parquet", tmp_path / "cache")
    assert len(index) == 2
    assert index.num_frames == [4, 1]
    assert_equal(index[0], full)
    assert_equal(index[1], bare)
    assert_equal(index.find("bare"), bare)
    assert index[0].cam_from_world is not None
    assert index[0].cam_from_world.flags.writeable


def test_a_moved_folder_keeps_its_index(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write_index(tmp_path / "old" / "index.parquet", [make_record(tmp_path / "old" / "data")])
    (tmp_path / "old").rename(tmp_path / "new")
    assert (
        load_index(tmp_path / "new" / "index.parquet", tmp_path / "cache")[0].root
        == tmp_path / "new" / "data"
    )


def test_a_rewritten_index_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_index(tmp_path / "index.parquet", [make_record(tmp_path, name)])
        assert load_index(tmp_path / "index.parquet", tmp_path / "cache").sequence_ids == [name]


def test_processes_may_load_at_once(forks: ForkServer, tmp_path: Path) -> None:
    write_index(tmp_path / "index.parquet", [make_record(tmp_path, str(i)) for i in range(20)])
    code = (
        "import sys; from pathlib import Path; from scal3r_train.data.index.index import load_index; "
        "index = load_index(sys.argv[1], Path(sys.argv[2])); assert index[19].sequence_id == '19'"
    )
    started = [forks.start("-c", code, tmp_path / "index.parquet", tmp_path / "cache") for _ in range(2)]
    results = [process.wait() for process in started]
    assert [(done.stderr, done.returncode) for done in results] == [("", 0), ("", 0)]


def test_wrong_indexes_say_so(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    with pytest.raises(UserError, match=r"index\.parquet does not exist"):
        load_index(path)
    path.write_text("text")
    with pytest.raises(UserError, match="not a Parquet file"):
        load_index(path)
    write_index(path, [make_record(tmp_path)])
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.drop_columns(["depth_codec"]), path)
    with pytest.raises(UserError, match="lacks column 'depth_codec'"):
        load_index(path)
    number = table.schema.get_field_index("max_depth")
    wrong = table.set_column(number, "max_depth", pyarrow.array(["far"]))
    pyarrow.parquet.write_table(wrong.replace_schema_metadata(None), path)
    with pytest.raises(UserError, match="column 'max_depth' is .*string"):
        load_index(path)


def test_names_must_be_found_once(tmp_path: Path) -> None:
    other = dataclasses.replace(make_record(tmp_path, "a"), dataset="other")
    write_index(tmp_path / "index.parquet", [make_record(tmp_path, "a"), make_record(tmp_path, "b"), other])
    index = load_index(tmp_path / "index.parquet", tmp_path / "cache")
    with pytest.raises(UserError, match="no sequence named 'c'; it holds a, b, a"):
        index.find("c")
    with pytest.raises(UserError, match="2 sequences named 'a'"):
        index.find("a")


@pytest.mark.parametrize("spoil", ["reflect", "scale", "nan"])
def test_poses_that_are_not_rigid_are_refused(tmp_path: Path, spoil: str) -> None:
    record = make_record(tmp_path)
    assert record.cam_from_world is not None
    if spoil == "reflect":
        record.cam_from_world[1, 0, :3] *= -1
    elif spoil == "scale":
        record.cam_from_world[1, :, :3] *= 1.1
    else:
        record.cam_from_world[1, 0, 3] = np.nan
    write_index(tmp_path / "index.parquet", [record])
    with pytest.raises(UserError, match=r"pose of a frame 1 \(1\.png\) is not a rigid transform"):
        load_index(tmp_path / "index.parquet", tmp_path / "cache")[0]


def test_nothing_half_written(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    with pytest.raises(AssertionError, match="unique"):
        write_index(tmp_path / "index.parquet", [record, record])
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_many_rows_is_written_in_groups(tmp_path: Path) -> None:
    """Records come from a generator, which is never held as a whole."""
    num = 2 * ROWS_PER_GROUP + 5

    def records() -> Iterator[SequenceRecord]:
        for number in range(num):
            record = make_record(tmp_path, f"s{number}", 2 + number % 3)
            yield dataclasses.replace(
                record,
                timestamp=np.arange(record.num_frames) * number,
                is_ordered=True,
                quarter_turns=number % 2,
            )

    write_index(tmp_path / "index.parquet", records())
    assert pyarrow.parquet.read_metadata(tmp_path / "index.parquet").num_row_groups == 3
    index = load_index(tmp_path / "index.parquet", tmp_path / "cache")
    assert index.sequence_ids == [f"s{number}" for number in range(num)]
    assert index.durations_s().tolist() == [number * (1 + number % 3) for number in range(num)]
    assert index.aspects() == pytest.approx([2 / 3 if number % 2 else 1.5 for number in range(num)])
    assert index[num - 1].num_frames == 2 + (num - 1) % 3


def test_a_generator_that_fails_leaves_no_index(tmp_path: Path) -> None:
    def records() -> Iterator[SequenceRecord]:
        yield make_record(tmp_path)
        raise UserError("cause")

    with pytest.raises(UserError, match="cause"):
        write_index(tmp_path / "index.parquet", records())
    assert list(tmp_path.iterdir()) == []
