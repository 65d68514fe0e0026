"""Frames of videos that are encoded here with known content: each one a grey level."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.data.io.frame_io import read_frame_image, read_frames
from scal3r_train.data.io.video_frames import presentation_times, read_video_frame

HW = (48, 64)
NUM_FRAMES = 60


def level(number: int) -> int:
    """Grey level of a frame, far from those of its neighbours."""
    return 20 + 37 * number % 210


def picture(number: int) -> np.ndarray:
    image = np.full((*HW, 3), level(number), np.uint8)
    image[:16, :16] = (255, 0, 0)  # top left is red
    return image


def encode(path: Path, codec: str, times: Sequence[int], options: dict[str, str] | None = None) -> None:
    """Frames shown at `times`, in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a rotation into the header of an .mp4 as phones do: the 2x2 part of the matrix in its box tkhd."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def read_level(path: Path, number: int) -> float:
    return float(read_video_frame(path, number)[20:, 20:].mean())


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames in both directions (B frames) and few key frames."""
    path = tmp_path_factory.mktemp("video") / "steady.mp4"
    encode(path, "libx264", range(0, 4 * NUM_FRAMES, 4), {"g": "25", "bf": "3", "crf": "10"})
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "2", "crf": "10"}),
        ("a.mkv", "libx264", {"g": "250", "crf": "10"}),
        ("a.avi", "mpeg4", {"g": "12", "q": "2"}),
        ("a.webm", "libvpx", {"g": "12", "crf": "4", "b": "4M"}),
    ],
)
def test_any_order_gives_the_frames_asked_for(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    encode(tmp_path / name, codec, range(0, 4 * NUM_FRAMES, 4), options)
    assert len(presentation_times(tmp_path / name)) == NUM_FRAMES
    for number in [
        0,
        1,
        2,
        40,
        41,
        3,
        59,
        58,
        0,
        *np.random.default_rng(0).integers(0, NUM_FRAMES, 12).tolist(),
    ]:
        assert read_level(tmp_path / name, number) == pytest.approx(level(number), abs=6)


def test_times_are_those_at_which_frames_are_shown(tmp_path: Path) -> None:
    times = [7, 11, 20, 21, 50, 90, 91, 130]
    encode(tmp_path / "a.mp4", "libx264", times, {"bf": "2", "crf": "10"})
    assert presentation_times(tmp_path / "a.mp4") == pytest.approx((np.array(times) - 7) / 100, abs=1e-6)
    record = open_source(tmp_path / "a.mp4")
    assert record.timestamp == pytest.approx((np.array(times) - 7) / 100, abs=1e-6)
    assert record.image[3] == "a.mp4#3"
    assert read_frame_image(record, 5)[30, 30] == pytest.approx(level(5), abs=6)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["clockwise", "half", "anticlockwise"],
)
def test_rotation_is_applied(
    steady: Path, tmp_path: Path, matrix: tuple[int, int, int, int], corner: tuple
) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(steady.read_bytes())
    turn(path, matrix)
    record = open_source(path)
    image = read_frame_image(record, 4)
    expected = HW if matrix[1] == 0 else HW[::-1]
    assert image.shape[:2] == expected == tuple(record.image_size[4])
    red = image[corner].astype(int)
    assert red[0] > 200 and red[1] < 80
    frames = read_frames(record, [4, 9], (28, 28))
    assert frames.images[1].mean() != frames.images[0].mean()


def _level_in_child(path: Path, number: int, queue: object) -> None:
    queue.put(read_level(path, number))  # type: ignore[attr-defined]


def test_a_forked_process_does_not_disturb_its_parent(steady: Path) -> None:
    assert read_level(steady, 10) == pytest.approx(level(10), abs=6)
    context = get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_level_in_child, args=(steady, 50, queue))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(level(50), abs=6)
    child.join()
    assert read_level(steady, 11) == pytest.approx(level(11), abs=6)
    assert read_level(steady, 30) == pytest.approx(level(30), abs=6)


def test_what_cannot_be_read_is_named(steady: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"steady\.mp4 has 60 frames, none has number 60"):
        read_video_frame(steady, 60)
    with pytest.raises(UserError, match=r"gone\.mp4 does not exist"):
        read_video_frame(tmp_path / "gone.mp4", 0)
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42 no video really")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        open_source(tmp_path / "a.mp4")
