"""Packed data sets hold the same files, and are read by ranges from wherever fsspec reaches."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow.parquet
import pytest
from huggingface_hub import DatasetCard

from scal3r_data_tools import check, dataset_card, pack
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.io import frame_files
from scal3r_train.data.io.frame_files import read_file
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.sequence import SequenceRecord


@pytest.fixture(scope="module")
def packed(towns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack") / "towns"
    assert pack.main(towns, folder) == 0
    return folder


def test_the_same_frames_come_out(towns: Path, packed: Path) -> None:
    before, after = load_index(towns), load_index(packed / "index.parquet")
    assert after.sequence_ids == before.sequence_ids
    for row, frames in ((0, [0, 15, 16, 19]), (3, [5])):
        a, b = (read_frames(index[row], frames, (28, 42)) for index in (before, after))
        assert (a.images == b.images).all()
        assert a.depth is not None and b.depth is not None and (a.depth == b.depth).all()
        assert read_file(after[row], "image#5") == (before[row].root / before[row].image[5]).read_bytes()
    assert check.main(packed / "index.parquet") == 0


def test_sequences_stay_whole_when_files_are_split(towns: Path, tmp_path: Path) -> None:
    assert pack.main(towns, tmp_path / "p", ["file_megabytes=1"]) == 0
    one = pack.PackSettings(file_megabytes=1)
    packer = pack._Packer(tmp_path, 1)  # a byte: a new file after every sequence
    index = load_index(towns)
    records = [packer.add(index[row]) for row in range(3)]
    packer.close()
    assert [record.packed.first_row for record in records if record.packed] == [0, 0, 0]
    assert len({record.root for record in records}) == 3
    assert one.file_megabytes == 1


def test_the_card_is_what_the_hub_reads_and_names_no_place_of_this_machine(towns: Path, packed: Path) -> None:
    text = (packed / "README.md").read_text()
    card = DatasetCard(text)
    data = card.data.to_dict()
    assert data["license"] == "cc0-1.0" and data["pretty_name"] == "towns"
    assert data["size_categories"] == ["n<1K"] and "depth-estimation" in data["task_categories"]
    assert {config["config_name"]: config["data_files"] for config in data["configs"]} == {
        "frames": "frames-*.parquet", "index": "index.parquet",
    }  # fmt: skip
    columns = pyarrow.parquet.read_schema(packed / "frames-00000.parquet").names
    assert [feature["name"] for feature in data["dataset_info"][0]["features"]] == columns
    described = re.findall(r"^\| (\w+) \| ", card.text.partition("| column |")[2], re.MULTILINE)
    assert described == columns
    assert "| towns | CC0-1.0 | 4 | 80 | " in text and "4 have poses, 4 have intrinsics, 4 have depth" in text
    for path in packed.iterdir():
        assert str(packed.parent).encode() not in path.read_bytes(), path.name
        assert str(towns.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("stated", "licence", "name"),
    [
        (["CC BY-NC-SA 3.0", "cc-by-nc-sa-3.0"], "cc-by-nc-sa-3.0", None),
        (["MIT", "CC0-1.0"], "other", "see-the-table"),
        (["own terms"], "other", "see-the-table"),
        ([""], "other", "not-stated"),
    ],
)
def test_licences_by_the_names_of_the_hub(stated: list[str], licence: str, name: str | None) -> None:
    assert dataset_card._licence(stated) == (licence, name)


def test_a_folder_is_no_source(towns: Path, tmp_path: Path) -> None:
    record = dataclasses.replace(load_index(towns)[0], source=str(tmp_path), licence="a | b")
    write_index(tmp_path / "i.parquet", [record])
    text = dataset_card.dataset_card("x", load_index(tmp_path / "i.parquet"), pack.FRAME_FEATURES)
    assert str(tmp_path) not in text and "| a \\| b | 1 | 20 | 0.00 | not stated |" in text


def test_a_url_is_read_by_ranges(towns: Path, packed: Path) -> None:
    """Only the row groups of the frames asked for are fetched."""
    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"/owner/name/{path.name}", path.read_bytes())
    index = load_index("memory://owner/name/index.parquet")
    record = index[1]
    assert record.packed is not None
    assert record.packed.location.startswith("memory://owner/name/frames-")
    frame_files._open.cache_clear()
    frame_files._read_group.cache_clear()
    got = read_frames(record, [3, 4], (28, 42), with_depth=False)
    assert (got.images == read_frames(load_index(towns)[1], [3, 4], (28, 42)).images).all()
    assert frame_files._read_group.cache_info().misses == 1  # one group, one column
    with pytest.raises(UserError, match=r"index memory://owner/none\.parquet"):
        load_index("memory://owner/none.parquet")


def test_datasets_sees_images(towns: Path, packed: Path) -> None:
    """As the Hub's viewer and anybody's `load_dataset(..., streaming=True)` will."""
    files = [str(path) for path in sorted(packed.glob("frames-*.parquet"))]
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    row = next(iter(stream))
    record = load_index(towns)[0]
    expected = read_frames(record, [0], (28, 42)).images[0].permute(1, 2, 0).numpy() * 255
    assert row["sequence_id"] == record.sequence_id
    assert np.abs(np.asarray(row["image"].convert("RGB")) - expected).max() < 0.5


def test_files_that_cannot_be_read_are_counted(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_index(towns)[0]
    names = ("gone.png", *record.image[1:])
    write_index(tmp_path / "i.parquet", [dataclasses.replace(record, image=names)])
    assert pack.main(tmp_path / "i.parquet", tmp_path / "out") == 0
    assert "1 files could not be read, first:" in capsys.readouterr().out
    again = load_index(tmp_path / "out" / "index.parquet")[0]
    with pytest.raises(UserError, match="row 0: holds no image"):
        read_frames(again, [0], (28, 42))
    assert read_frames(again, [1], (28, 42)).num_frames == 1
    with pytest.raises(UserError, match="exists already"):
        pack.main(tmp_path / "i.parquet", tmp_path / "out")


@pytest.fixture
def record(towns: Path, tmp_path: Path) -> SequenceRecord:
    """A sequence of four frames in a folder of its own, with depth and masks."""
    record = load_index(towns)[0]
    root = tmp_path / "data" / "scene"
    names = {"image": record.image[:4], "depth": record.depth[:4]}
    for name in (*names["image"], *names["depth"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.root / name, root / name)
    (tmp_path / "passwd").write_text("root:x:0:0")
    shutil.copyfile(root / names["image"][0], tmp_path / "photo.png")
    frames = {
        name: None if vars(record)[name] is None else vars(record)[name][:4]
        for name in ("image_size", "timestamp", "intrinsics", "cam_from_world", "covisible")
    }
    return dataclasses.replace(record, root=root, **names, **frames)


def _link(record: SequenceRecord, target: Path) -> str:
    (record.root / "link.png").symlink_to(target)
    return "link.png"


def _linked_folder(record: SequenceRecord, target: Path) -> str:
    (record.root / "linked").symlink_to(target.parent)
    return f"linked/{target.name}"


@pytest.mark.parametrize("column", pack.FILE_COLUMNS)
@pytest.mark.parametrize(
    "name_of",
    [
        lambda record, target: f"../../{target.name}",
        lambda record, target: f"rgb/../../../{target.name}",
        lambda record, target: str(target),
        _link,
        _linked_folder,
    ],
    ids=["above", "above from within", "absolute", "link", "linked folder"],
)
def test_files_outside_of_the_root_are_not_packed_unasked(
    record: SequenceRecord, tmp_path: Path, column: str, name_of: Callable[[SequenceRecord, Path], str]
) -> None:
    name = name_of(record, tmp_path / "photo.png")
    others = record.image[1:] if column == "image" else ("", "", "")
    rules = {"mask_rule": "below 1", "sky_mask_rule": "below 1"}
    write_index(tmp_path / "i.parquet", [dataclasses.replace(record, **rules, **{column: (name, *others)})])
    with pytest.raises(
        UserError,
        match=rf"{column} .* lies outside of the sequence's root .*{tmp_path / 'photo.png'}.*allow_outside",
    ):
        pack.main(tmp_path / "i.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_linked_data_are_packed_when_asked_and_a_linked_root_at_once(
    record: SequenceRecord, tmp_path: Path
) -> None:
    (tmp_path / "root").symlink_to(record.root)
    (record.root / record.image[0]).rename(tmp_path / "frame.png")
    names = ("../../frame.png", *record.image[1:])
    write_index(tmp_path / "i.parquet", [dataclasses.replace(record, image=names)])
    assert pack.main(tmp_path / "i.parquet", tmp_path / "asked", ["allow_outside=true"]) == 0
    linked = dataclasses.replace(record, root=tmp_path / "root", image=record.image[1:2] * 4)
    write_index(tmp_path / "l.parquet", [linked])
    assert pack.main(tmp_path / "l.parquet", tmp_path / "linked") == 0
    for name in ("asked", "linked"):
        assert read_frames(load_index(tmp_path / name / "index.parquet")[0], [0], (28, 42)).num_frames == 1


@pytest.mark.parametrize("column", pack.FILE_COLUMNS)
def test_what_is_no_image_depth_or_mask_is_never_published(
    record: SequenceRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    (record.root / "notes.png").write_text("the password is 1234")
    others = record.image[1:] if column == "image" else record.image[:1] * 3
    if column == "depth":
        others = record.depth[1:]
    rules = {"mask_rule": "below 1", "sky_mask_rule": "below 1"}
    changed = dataclasses.replace(record, **rules, **{column: ("notes.png", *others)})
    write_index(tmp_path / "i.parquet", [changed])
    assert pack.main(tmp_path / "i.parquet", tmp_path / "out") == 0
    assert "1 files could not be read, first:" in capsys.readouterr().out
    packed = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert not any(b"password" in content for content in packed)
    cells = pyarrow.parquet.read_table(tmp_path / "out/frames-00000.parquet").column(column).to_pylist()
    assert [bool(cell["bytes"] if column == "image" else cell) for cell in cells] == [False, True, True, True]


def _read_frames_of(index: Path, frames: list[int], results: Any) -> None:
    record = load_index(index)[0]
    results.put([read_file(record, f"image#{frame}") for frame in frames])


def test_forked_readers_share_nothing(packed: Path) -> None:
    """The parent has the file open, as after a validation; its readers must not move each other's position."""
    index = packed / "index.parquet"
    record = load_index(index)[0]
    expected = [read_file(record, f"image#{frame}") for frame in range(20)]
    context = get_context("fork")
    results = context.Queue()
    orders = [list(np.random.default_rng(seed).permutation(20)) * 5 for seed in range(3)]
    readers = [context.Process(target=_read_frames_of, args=(index, order, results)) for order in orders]
    for reader in readers:
        reader.start()
    found = [results.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    assert sorted(map(sorted, found)) == [sorted(expected * 5)] * 3
    assert {tuple(content) for content in found} == {tuple(expected[f] for f in order) for order in orders}


def test_a_connection_that_breaks_is_tried_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"/broken/{path.name}", path.read_bytes())
    record = load_index("memory://broken/index.parquet")[0]
    original, failures = frame_files._group_of, iter([RuntimeError("reset"), RuntimeError("reset")])

    def flaky(location: str, row: int) -> tuple[int, int]:
        for error in failures:
            raise error
        return original(location, row)

    monkeypatch.setattr(frame_files, "_group_of", flaky)
    monkeypatch.setattr(frame_files.time, "sleep", lambda seconds: None)
    assert read_file(record, "image#1") == read_file(load_index(packed / "index.parquet")[0], "image#1")
