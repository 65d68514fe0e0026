"""Which images count in a folder that images are written into, and when; time is a number here."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.source import record_from_images
from scal3r_train.inference.streaming import frame_folder
from scal3r_train.inference.streaming.frame_folder import FrameFolder


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def images(image_folder: Path) -> list[Path]:
    return sorted(image_folder.iterdir())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> FrameFolder:
    return FrameFolder(tmp_path, clock)


def test_the_newest_image_counts_once_it_stays_the_same(
    folder: FrameFolder, tmp_path: Path, images: list[Path]
) -> None:
    assert folder.scan() == 0
    shutil.copy(images[0], tmp_path)
    assert (folder.scan(), folder.scan(), folder.scan()) == (0, 1, 0)
    shutil.copy(images[1], tmp_path)
    shutil.copy(images[2], tmp_path)
    assert folder.scan() == 1, "the second of three has a later one"
    assert (folder.scan(), folder.num_images) == (1, 3)


def test_the_sequence_is_that_of_the_finished_folder(
    folder: FrameFolder, tmp_path: Path, images: list[Path]
) -> None:
    for number, path in enumerate(images):
        shutil.copy(path, tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    folder.close(leave_out_broken=False)
    folder.scan()
    (tmp_path / ".hidden.png").unlink()
    found, wanted = vars(folder.record()), vars(record_from_images(tmp_path))
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_half_written_image_is_waited_for(
    folder: FrameFolder, clock: Clock, tmp_path: Path, images: list[Path]
) -> None:
    data = images[1].read_bytes()
    shutil.copy(images[0], tmp_path)
    (tmp_path / images[1].name).write_bytes(data[: len(data) // 2])
    shutil.copy(images[2], tmp_path)
    assert (folder.scan(), folder.scan(), folder.num_images) == (1, 0, 1)
    clock.seconds = 5
    unreadable = folder.unreadable
    assert unreadable is not None
    assert (unreadable.name, unreadable.unchanged_s, folder.idle_s) == (images[1].name, 5, 5)
    assert images[1].name in unreadable.reason
    with (tmp_path / images[1].name).open("ab") as file:
        file.write(data[len(data) // 2 :])
    assert (folder.scan(), folder.num_images, folder.unreadable, folder.idle_s) == (2, 3, None, 0)
    assert not folder.left_out


def test_at_the_end_a_broken_image_is_left_out_or_ends_the_sequence(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images[:4]:
        shutil.copy(path, tmp_path)
    (tmp_path / images[1].name).write_bytes(images[1].read_bytes()[:500])
    for leave_out, wanted in ((True, [0, 2, 3]), (False, [0])):
        folder = FrameFolder(tmp_path)
        folder.close(leave_out_broken=leave_out)
        folder.scan()
        assert folder.scan() == 0
        assert list(folder.record().image) == [images[number].name for number in wanted]
        assert folder.left_out == ([images[1].name] if leave_out else [])
    assert f"{images[1].name} is left out" in capsys.readouterr().err


def test_after_the_end_nothing_new_counts(tmp_path: Path, images: list[Path]) -> None:
    shutil.copy(images[0], tmp_path)
    folder = FrameFolder(tmp_path)
    folder.close(leave_out_broken=True)
    shutil.copy(images[1], tmp_path)
    assert (folder.scan(), folder.scan(), folder.num_images) == (1, 0, 1)


def test_order_holds_once_images_are_taken(
    folder: FrameFolder, tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 4, 5):
        shutil.copy(images[number], tmp_path)
    folder.scan()
    folder.scan()
    folder.fix_order(2)
    for number in (1, 3):
        shutil.copy(images[number], tmp_path)
    shutil.copy(images[4], tmp_path / "004b.png")
    folder.scan()
    folder.scan()
    assert list(folder.record().image) == ["002.png", "004.png", "004b.png", "005.png"]
    assert folder.left_out == ["001.png", "003.png"]
    assert capsys.readouterr().err.count("after 004.png had been taken") == 2


def test_many_images_are_decoded_in_several_looks(
    folder: FrameFolder, tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_folder, "IMAGES_PER_SCAN", 2)
    for path in images[:5]:
        shutil.copy(path, tmp_path)
    assert [folder.scan() for _ in range(4)] == [2, 2, 1, 0]


def test_names_that_are_times_order_the_images(
    folder: FrameFolder, tmp_path: Path, images: list[Path]
) -> None:
    """12.5 comes after 12.25, though 5 is less than 25."""
    for name, path in zip(("12.5", "12.25", "9.75"), images, strict=False):
        shutil.copy(path, tmp_path / f"{name}.png")
    folder.close(leave_out_broken=False)
    folder.scan()
    assert list(folder.record().image) == ["9.75.png", "12.25.png", "12.5.png"]
    np.testing.assert_array_equal(folder.record().timestamp, record_from_images(tmp_path).timestamp)
    np.testing.assert_array_equal(folder.record().timestamp, [9.75, 12.25, 12.5])


def test_depth_maps_are_refused(folder: FrameFolder, tmp_path: Path, images: list[Path]) -> None:
    shutil.copy(images[0], tmp_path / "depth_0.png")
    folder.close(leave_out_broken=False)
    folder.scan()
    with pytest.raises(UserError, match="looks like a depth map"):
        folder.record()
