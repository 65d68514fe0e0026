"""Windows with broken frames keep their shape and their geometry, and say what was skipped."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.augmentation import AugmentationSettings, WindowLook
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_pixels
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.window import WindowFrames, read_window, readable_places

FRAMES = range(2, 10)


@pytest.fixture
def record(towns: Path) -> SequenceRecord:
    return load_index(towns)[0]


def read(record: SequenceRecord, size: tuple[int, int] = (28, 42)) -> WindowFrames:
    look = WindowLook.draw(AugmentationSettings(), 0)
    return read_window(record, list(FRAMES), size, look, read_pixels)


def renamed(record: SequenceRecord, field: str, *frames: int) -> SequenceRecord:
    names = list(getattr(record, field))
    for frame in frames:
        names[frame] = f"gone_{frame}.png"
    return dataclasses.replace(record, **{field: tuple(names)})


def test_a_broken_image_gives_its_place_to_the_nearest_of_its_chunk(record: SequenceRecord) -> None:
    whole, got = read(record), read(renamed(record, "image", 2, 6))
    assert [(frame.dataset, frame.index) for frame in got.skipped] == [("towns", 2), ("towns", 6)]
    assert "gone_2.png does not exist" in got.skipped[0].reason
    good = torch.tensor([1, 2, 3, 5, 6, 7])
    for name in ("images", "depth", "intrinsics", "extrinsics"):
        assert torch.equal(getattr(got, name)[good], getattr(whole, name)[good]), name
    # frame 2 is the first; frame 6, at place 4, lies between two, of which the earlier is taken
    assert readable_places(got, range(8), 0.25) == [1, 1, 2, 3, 3, 5, 6, 7]
    assert readable_places(got, [4, 5, 6, 7], 0.25) == [
        5,
        5,
        6,
        7,
    ]  # another chunk does not have the earlier one
    assert readable_places(whole, range(8), 0.0) == list(range(8))
    assert whole.skipped == ()


def test_broken_depth_is_left_out(record: SequenceRecord) -> None:
    whole, got = read(record), read(renamed(record, "depth", 4))
    assert torch.equal(got.images, whole.images)
    assert torch.equal(got.extrinsics, whole.extrinsics)
    assert (got.depth[2] == 0).all()
    assert torch.equal(got.depth[3:], whole.depth[3:])
    assert [frame.index for frame in got.skipped] == [4]


def test_too_many_broken_frames_are_a_failure(record: SequenceRecord) -> None:
    got = read(renamed(record, "image", 2, 3, 4))
    assert len(readable_places(got, range(8), 0.375)) == 8
    with pytest.raises(UserError, match=r"gone_2\.png does not exist.*3 of 8 frames of a chunk"):
        readable_places(got, range(8), 0.37)
    with pytest.raises(UserError, match=r"gone_4\.png .*1 of 4 frames"):
        readable_places(got, [2, 3, 4, 5], 0.0)


def test_an_image_of_another_size_than_the_index_says_is_broken(
    record: SequenceRecord, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((40, 42, 3), np.uint8)).save(tmp_path / "tall.png")
    names = list(record.image)
    names[4] = str(tmp_path / "tall.png")
    got = read(dataclasses.replace(record, image=tuple(names)))
    assert "has 42x40 pixels, the index says 42x28" in got.skipped[0].reason


def test_large_photographs_are_decoded_at_part_of_their_size(tmp_path: Path) -> None:
    """The same picture comes out, and a spot stays where the intrinsics put it."""
    hw, spot = (400, 608), (250.4, 170.7)
    columns, rows = np.meshgrid(np.arange(hw[1]) + 0.5, np.arange(hw[0]) + 0.5)
    bright = 255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / (2 * 20.0**2))
    Image.fromarray(np.repeat(bright.astype(np.uint8)[..., None], 3, -1)).save(tmp_path / "a.jpg", quality=98)
    record = SequenceRecord(
        dataset="photos", sequence_id="one", root=tmp_path, image=("a.jpg",), image_size=np.array([hw]),
        timestamp=np.zeros(1), camera_model="pinhole", intrinsics=np.array([[500.0, 500, *spot]]),
        cam_from_world=np.eye(4)[None, :3],
    )  # fmt: skip
    assert read_pixels(record, 0, (100, 152)).image.shape == (100, 152, 3)
    assert read_pixels(record, 0, (101, 152)).image.shape == (200, 304, 3)
    assert read_pixels(record, 0, (399, 600)).image.shape == (*hw, 3)
    odd = dataclasses.replace(record, image_size=np.array([[401, 608]]))
    with pytest.raises(UserError, match="has 608x400 pixels, the index says 608x401"):
        read_pixels(odd, 0, (10, 10))
    frames = read_window(record, [0], (50, 76), WindowLook.draw(AugmentationSettings(), 0), read_pixels)
    image = frames.images[0, 0].double().numpy()
    columns, rows = np.meshgrid(np.arange(76) + 0.5, np.arange(50) + 0.5)
    found = float((image * columns).sum() / image.sum()), float((image * rows).sum() / image.sum())
    assert found == pytest.approx(frames.intrinsics[0, :2, 2].tolist(), abs=0.1)
