"""What may be named as input, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.index import write_index
from scal3r_train.data.index.source import open_source


def put_image(path: Path, height: int = 4, width: int = 6) -> None:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def test_a_folder_in_natural_order_whatever_the_case(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame2.PNG", "frame1.jpeg", "b.Jpg", "a.bmp"):
        put_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    record = open_source(tmp_path)
    assert record.image == ("a.bmp", "b.Jpg", "frame1.jpeg", "frame2.PNG", "frame10.png")
    assert record.image_size.tolist() == [[4, 6]] * 5
    assert record.timestamp.tolist() == [0, 1, 2, 3, 4]
    assert record.cam_from_world is None
    assert record.intrinsics is None


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        open_source(tmp_path)
    put_image(tmp_path / "a.png")
    Image.fromarray(np.ones((4, 6), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is a 16-bit"):
        open_source(tmp_path)
    (tmp_path / "b.png").unlink()
    put_image(tmp_path / "frame.depth.png")
    with pytest.raises(UserError, match=r"frame\.depth\.png looks like a depth map"):
        open_source(tmp_path)


def test_files_that_are_no_input_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drive.MP4").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"video .*drive\.MP4 cannot be read"):
        open_source(tmp_path / "drive.MP4")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="neither an image folder nor a video nor an index"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "nowhere")


def test_a_sequence_of_an_index(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        put_image(tmp_path / name / "0.png")
    records = [open_source(tmp_path / name) for name in ("one", "two")]
    path = tmp_path / "index.parquet"
    write_index(path, records)
    assert open_source(f"{path}#two").root == tmp_path / "two"
    with pytest.raises(UserError, match="no sequence named 'three'"):
        open_source(f"{path}#three")
    with pytest.raises(UserError, match="holds 2 sequences; name one"):
        open_source(path)
    write_index(path, records[:1])
    assert open_source(path).sequence_id == "one"
