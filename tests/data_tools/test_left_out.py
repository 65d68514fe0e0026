"""What an index leaves out is counted by cause, with an example each, whatever adapter left it out."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools import index
from scal3r_data_tools.registry import ADAPTERS, Adapter
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.index.source import record_from_images
from scal3r_train.data.io.left_out import Cause, counted, leave_out
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools import layouts
from tests.data_tools.miniature import Miniature, make_miniature
from tests.data_tools.test_field_cases import GOOD, picture, saved, transforms

# Layouts that list frames by their image files alone (one that is not there is not missed), one that takes a scene
# whole or not at all, and one whose lens takes long to render.
WITHOUT_LISTS = {"images", "oxford_spires", "posed", "video", "spatialbench", "aria_synthetic_environments"}
OWN_SCENES = {"eth3d", "scannet_pp"}  # their writers shrink images of one size
NAMES = sorted({module.name for module in pkgutil.iter_modules(layouts.__path__)} - WITHOUT_LISTS)


def said(name: str, source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, list[str]]:
    """The last line without the index's name, and the notes."""
    capsys.readouterr()
    assert index.main(name, source, source.parent / "index.parquet", list(options)) == 0
    out, err = capsys.readouterr()
    return out.partition("index.parquet: ")[2].strip(), err.splitlines()


def num_left_out(line: str) -> int:
    """Frames and images that a last line says are left out."""
    return sum(int(num) for num in re.findall(r"(\d+) (?:frame|image)s?\b", line.partition("left out: ")[2]))


def test_the_last_line_sums_up_and_notes_have_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "scene"
    saved(scene / "images" / "0001.jpg", 6, "exif")
    transforms(scene, GOOD, num=7)
    images = scene / "images"
    (images / "0002.jpg").unlink()
    (images / "0003.jpg").write_bytes(b"")
    picture().save(images / "0009.jpg")
    picture().save(images / "0000.mask.png")
    picture().convert("L").save(images / "0004.depth.png")
    for name in ("0010.dng", "0011.DNG", "._0012.jpg", "notes.txt"):
        (images / name).write_bytes(b"?")
    line, notes = said("nerfstudio", scene, capsys)
    assert line == (
        "1 sequence, 4 frames, 4 with pose, 0 with depth; left out: 1 frame whose image is not there, 1 image that "
        "cannot be read, 1 image to be turned by EXIF, 1 image that nothing lists, 2 .dng files"
    )
    assert [note.partition(" left out, ")[2].partition(" for one")[0] for note in notes] == [
        "images/0002.jpg", "images/0003.jpg", "images/0001.jpg", "0009.jpg", "0010.dng",
    ]  # fmt: skip
    assert all(note.startswith(f"note: {scene}") for note in notes)
    transforms(tmp_path / "whole", GOOD)
    assert said("nerfstudio", tmp_path / "whole", capsys) == (
        "1 sequence, 2 frames, 2 with pose, 0 with depth; nothing left out",
        [],
    )


def test_causes_are_said_once_for_all_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        transforms(tmp_path / "scenes" / name, GOOD | {"lens_shift": 1}, num=3)
        (tmp_path / "scenes" / name / "images" / "0001.jpg").unlink()
    line, notes = said("nerfstudio", tmp_path / "scenes", capsys)
    assert line.endswith("left out: 3 frames whose image is not there")
    assert len([note for note in notes if "not read: lens_shift" in note]) == 1
    assert [note for note in notes if "left out" in note] == [
        f"note: 3 frames whose image is not there are left out, {tmp_path}/scenes/a/images/0001.jpg for one"
    ]


def test_adapters_that_only_count_are_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    picture().save(tmp_path / "src" / "a.png")

    def records(source: Path) -> Iterator[SequenceRecord]:
        yield SequenceRecord("x", "one", source, ("a.png",), np.array([[16, 24]]), np.zeros(1), num_missing=3)

    monkeypatch.setitem(ADAPTERS, "mine", Adapter(records))
    line, notes = said("mine", tmp_path / "src", capsys)
    assert line.endswith("left out: 3 frames that the adapter counts as missing")
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "intrinsics",
            [20.0, 0, 12, 8],
            "fx fy cx cy of one frame 1 .* is 20 0 12 8; it must be finite and above 0",
        ),
        ("intrinsics", [20.0, np.nan, 12, 8], "is 20 nan 12 8"),
        ("distortion", [np.inf], "distortion of one frame 1 .* is inf; it must be finite"),
        ("image_size", [0, 24], "image size of one frame 1 .* is 0 24"),
        ("timestamp", np.nan, "time of one frame 1 .* is nan"),
    ],
)
def test_numbers_of_any_adapter_are_checked(
    field: str, value: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, np.ndarray] = {
        "image_size": np.array([[16, 24]] * 2),
        "timestamp": np.arange(2.0),
        "intrinsics": np.array([[20.0, 21, 12, 8]] * 2),
        "distortion": np.zeros((2, 1)),
    }
    fields[field][1] = value
    record = SequenceRecord("x", "one", tmp_path, ("a.png", "b.png"), camera_model="pinhole", **fields)
    monkeypatch.setitem(ADAPTERS, "mine", Adapter(lambda source: iter([record])))
    with pytest.raises(UserError, match=message):
        index.main("mine", tmp_path, tmp_path / "index.parquet")
    assert not (tmp_path / "index.parquet").exists()


def test_strange_cameras_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transforms(tmp_path / "scene", GOOD | {"fl_x": 0.8})
    _, notes = said("nerfstudio", tmp_path / "scene", capsys)
    assert (
        "fx fy cx cy = 0.8 21 12 8 of scene images/0000.jpg (24x16 pixels) and 1 more are strange" in notes[0]
    )


@pytest.fixture(scope="module")
def scene() -> Miniature:
    """Small and through no lens, which does not matter here."""
    return make_miniature(6, (48, 64), (52.0, 51.0))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_gone_is_counted(
    name: str, scene: Miniature, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one image less there is one frame less and one more left out, in every layout that lists frames."""
    layout = importlib.import_module(f"tests.data_tools.layouts.{name}")
    source = tmp_path / "source"
    source.mkdir()
    layout.write(source, layout.scene() if name in OWN_SCENES else scene)
    options = [*vars(layout).get("OPTIONS", ()), "num_covisible=0"]
    before, _ = said(name, source, capsys, *options)
    record = load_index(tmp_path / "index.parquet")[0]
    assert num_left_out(before) >= record.num_missing
    (record.root / record.image[1]).unlink()
    after, notes = said(name, source, capsys, *options)
    frames = [int(re.findall(r"(\d+) frames", line)[0]) for line in (before, after)]
    assert frames[1] == frames[0] - 1, after
    assert num_left_out(after) == num_left_out(before) + 1, after
    assert load_index(tmp_path / "index.parquet")[0].num_missing == record.num_missing + 1
    assert any("left out" in note for note in notes)


def test_a_sequence_that_is_found_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive = tmp_path / "kitti" / "sequences" / "04"
    (drive / "image_2").mkdir(parents=True)
    picture().save(drive / "image_2" / "000000.png")
    (drive / "calib.txt").write_text("P2: 20 0 12 0 0 21 8 0 0 0 1 0\n")
    (drive / "times.txt").write_text("0\n")
    (tmp_path / "kitti" / "again").symlink_to(tmp_path / "kitti" / "sequences")
    line, _ = said("kitti_odometry", tmp_path / "kitti", capsys)
    assert (
        line.startswith("1 sequence, 1 frames") and "1 sequence that is found again, through a link" in line
    )
    (tmp_path / "kitti" / "again").unlink()
    shutil.copytree(drive, tmp_path / "kitti" / "copy" / "04")
    with pytest.raises(UserError, match=r"two sequences are called 04: .*/copy/04 and .*/sequences/04"):
        index.main("kitti_odometry", tmp_path / "kitti", tmp_path / "index.parquet")


def test_a_damaged_video_does_not_stop_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shared_dir: Path
) -> None:
    source = tmp_path / "films"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        index.main("video", source, tmp_path / "index.parquet")
    film = shared_dir / "cases" / "video-two-streams" / "two.mkv"
    if film.is_file():
        shutil.copy(film, source / "b.mkv")
        line, _ = said("video", source, capsys)
        assert line.endswith("left out: 1 video that cannot be read")


def test_folders_that_cannot_be_opened_are_counted(tmp_path: Path) -> None:
    with counted() as ledger:
        leave_out(Cause("that cannot be opened"), ["locked"], tmp_path, "folder")
        leave_out(Cause("that cannot be opened"), [], tmp_path, "folder")
    assert ledger.summary() == "1 folder that cannot be opened"


def test_a_damaged_picture_does_not_stop_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        picture().save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"\x89PNG")
    record = record_from_images(tmp_path)
    assert (record.image, record.num_missing) == (("0.png", "2.png"), 1)
    assert "1 image that cannot be read is left out, 1.png for one" in capsys.readouterr().err
    shutil.copy(tmp_path / "1.png", tmp_path / "0.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "2.png")
    with pytest.raises(UserError, match=r"0\.png cannot be read"):
        record_from_images(tmp_path)
    Image.fromarray(np.ones((4, 6), np.uint16)).save(tmp_path / "3.png")
    with pytest.raises(UserError, match=r"3\.png is a 16-bit"):
        record_from_images(tmp_path)
