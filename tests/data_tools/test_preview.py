"""`scal3r data preview`: what it draws of whole, broken and bare sequences, and that it reads no more than it shows."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools import index, preview, synth
from scal3r_data_tools.previewing import shown_frames
from scal3r_data_tools.previewing.block import in_words
from scal3r_data_tools.previewing.canvas import BROKEN_FILL, EMPTY_FILL, broken_box, grid, text_line
from scal3r_data_tools.previewing.shown_frames import fitted_hw, read_shown, spread_frames
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.io.frame_io import FramePixels, read_frame_depth
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.layouts import taskonomy
from tests.data_tools.miniature import make_miniature

SIZE = ["num_frames=24", "height=28", "width=42", "num_workers=1", "fog_share=0", "num_sequences=2"]
SMALL = ["width=600", "frames=3"]
BOX = 28, 42


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "towns"
    assert synth.main(folder, SIZE) == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def record(made: Path) -> SequenceRecord:
    return load_index(made / "index.parquet")[0]


def drawn(path: Path, *overrides: str) -> np.ndarray:
    output = path.parent / "sheet.png"
    assert preview.main(path, output, [*SMALL, *overrides]) == 0
    with Image.open(output) as sheet:
        return np.asarray(sheet.convert("RGB"))


def drawn_record(folder: Path, record: SequenceRecord, *overrides: str) -> np.ndarray:
    write_index(folder / "one.parquet", [record])
    return drawn(folder / "one.parquet", *overrides)


def num_pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def test_a_picture_of_towns(made: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    assert preview.main(made / "index.parquet", output, SMALL) == 0
    with Image.open(output) as sheet:
        assert sheet.width == 600
        pixels = np.asarray(sheet.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    assert num_pixels(pixels, BROKEN_FILL) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_wrong_settings_say_so(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.png"):
        preview.main(made / "index.parquet", tmp_path / "sheet.txt")
    for overrides, message in (
        (["frames=0"], "frames"),
        (["frame=3"], "did you mean 'frames'"),
        (["sequences=0"], "at least 1"),
        (["sequences=[nowhere]"], "no sequence named nowhere; it holds town_000_00000"),
        (["sequences=[]"], "no sequence named"),
    ):
        with pytest.raises(UserError, match=message):
            preview.main(made / "index.parquet", tmp_path / "sheet.png", overrides)
    assert list(tmp_path.iterdir()) == []


def test_sequences_are_spread_or_named(made: Path) -> None:
    towns = load_index(made / "index.parquet")
    assert preview.shown_rows(towns, 1) == [0]
    assert preview.shown_rows(towns, 100) == [0, 1]
    assert preview.shown_rows(towns, ("town_000_00001",)) == [1]


def test_what_is_shown_is_all_that_is_read(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[int] = []

    def counted(record: SequenceRecord, frame: int, hw: tuple[int, int]) -> FramePixels:
        read.append(frame)
        return original(record, frame, hw)

    original = shown_frames.read_pixels
    monkeypatch.setattr(shown_frames, "read_pixels", counted)
    overrides = [*SMALL, "sequences=1", "cloud_frames=4"]
    assert preview.main(made / "index.parquet", tmp_path / "sheet.png", overrides) == 0
    assert read[:3] == [0, 11, 23]
    assert len(read) <= 3 + 4


def test_a_broken_frame_is_a_red_box_with_its_reason(copy: Path) -> None:
    folder = copy / "town_000_00000"
    (folder / "rgb/000011.png").unlink()
    cut = folder / "depth/000000.png"
    cut.write_bytes(cut.read_bytes()[:100])
    record = load_index(copy / "index.parquet")[0]
    without_image, without_depth = read_shown(record, 11, BOX), read_shown(record, 0, BOX)
    assert without_image.image is None and "000011.png does not exist" in without_image.fault
    assert without_depth.image is not None and without_depth.depth is None
    assert "depth/000000.png cannot be read" in without_depth.fault
    whole = drawn(copy / "index.parquet", "sequences=[town_000_00001]")
    broken = drawn(copy / "index.parquet", "sequences=[town_000_00000]")
    assert num_pixels(whole, BROKEN_FILL) == 0
    assert num_pixels(broken, BROKEN_FILL) > 2 * 0.5 * 100 * 190


def test_a_sequence_with_broken_poses_is_a_red_box(copy: Path, record: SequenceRecord) -> None:
    assert record.cam_from_world is not None
    poses = record.cam_from_world.copy()
    poses[5, 0, 3] = np.nan
    picture = drawn_record(copy, dataclasses.replace(record, cam_from_world=poses))
    assert num_pixels(picture, BROKEN_FILL) > 1000


def test_wrong_numbers_of_an_index_are_red_boxes(record: SequenceRecord) -> None:
    nothing = dataclasses.replace(record, image_size=np.zeros_like(record.image_size))
    assert read_shown(nothing, 0, BOX).image is None
    larger = dataclasses.replace(record, image_size=record.image_size + 1)
    assert "the index says" in read_shown(larger, 0, BOX).fault
    assert record.intrinsics is not None
    blind = dataclasses.replace(record, intrinsics=np.full_like(record.intrinsics, np.nan))
    assert read_shown(blind, 0, BOX).image is not None


def test_bare_sequences_say_what_they_lack(copy: Path, record: SequenceRecord) -> None:
    no_depth = dataclasses.replace(record, depth=(), depth_codec="")
    assert "no depth" in in_words(no_depth)
    assert drawn_record(copy, no_depth).shape[0] < drawn_record(copy, record).shape[0]
    no_poses = dataclasses.replace(record, cam_from_world=None)
    assert "no poses" in in_words(no_poses)
    assert num_pixels(drawn_record(copy, no_poses), EMPTY_FILL) > 1000
    no_cameras = dataclasses.replace(no_depth, cam_from_world=None, intrinsics=None, camera_model="")
    assert "no intrinsics" in in_words(no_cameras)
    drawn_record(copy, no_cameras)
    assert record.cam_from_world is not None
    still = dataclasses.replace(record, cam_from_world=np.tile(record.cam_from_world[:1], (24, 1, 1)))
    drawn_record(copy, still)
    one = index_of_one(record)
    drawn_record(copy, one)


def index_of_one(record: SequenceRecord) -> SequenceRecord:
    """The first frame alone."""
    per_frame = {
        name: value[:1]
        for name, value in vars(record).items()
        if isinstance(value, tuple | np.ndarray) and len(value) == record.num_frames
    }
    return dataclasses.replace(record, **per_frame)


def test_a_path_in_words(record: SequenceRecord) -> None:
    assert record.cam_from_world is not None
    poses = np.tile(np.eye(4)[:3], (24, 1, 1))
    poses[:, 0, 3] = -0.5 * np.arange(24)
    assert "path of 11.5 m" in in_words(dataclasses.replace(record, cam_from_world=poses))
    assert "path of" not in in_words(dataclasses.replace(record, cam_from_world=poses, is_ordered=False))


def test_unordered_frames_are_shown_beside_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "taskonomy").mkdir()
    taskonomy.write(tmp_path / "taskonomy", make_miniature(hw=(96, 96)))
    path = tmp_path / "index.parquet"
    assert index.main("taskonomy", tmp_path / "taskonomy", path, vars(taskonomy).get("OPTIONS", ())) == 0
    record = load_index(path)[0]
    assert record.covisible is not None
    with_row, without = (
        drawn_record(tmp_path, dataclasses.replace(record, covisible=covisible))
        for covisible in (record.covisible, None)
    )
    assert num_pixels(with_row, BROKEN_FILL) == 0
    assert with_row.shape[0] > without.shape[0] + 150


def test_depth_taken_away_is_told_from_depth_not_measured(record: SequenceRecord) -> None:
    depth = read_frame_depth(record, 0)
    assert depth is not None
    limit = float(np.median(depth[depth > 0]))
    shown = read_shown(dataclasses.replace(record, max_depth=limit), 0, BOX)
    assert shown.depth is not None and shown.is_dropped is not None
    assert (shown.is_dropped == (depth > limit)).all()
    assert (shown.depth[shown.is_dropped] == 0).all()
    assert read_shown(dataclasses.replace(record, max_depth=0.0), 0, BOX).is_dropped is None


def test_frames_are_spread_over_those_with_depth(record: SequenceRecord) -> None:
    names = tuple(name if place % 5 == 2 else "" for place, name in enumerate(record.depth))
    assert spread_frames(dataclasses.replace(record, depth=names), 3).tolist() == [2, 12, 22]
    assert spread_frames(dataclasses.replace(record, depth=()), 3).tolist() == [0, 11, 23]
    assert len(spread_frames(record, 100)) == 24


def test_images_fit_into_their_tile() -> None:
    assert fitted_hw((100, 200), (50, 50)) == (25, 50)
    assert fitted_hw((200, 100), (50, 50)) == (50, 25)
    assert fitted_hw((1, 5000), (50, 50)) == (1, 50)


def test_text_and_tiles_keep_their_size() -> None:
    assert text_line("a " * 500, 200).shape[1] == 200
    assert text_line("a" * 500, 200).shape[0] > 10 * text_line("a", 200).shape[0]
    assert broken_box("x/" * 500, (60, 90)).shape == (60, 90, 3)
    assert grid([np.zeros((10, 20, 3), np.uint8)] * 5, 2).shape == (3 * 10 + 2 * 6, 2 * 20 + 6, 3)
