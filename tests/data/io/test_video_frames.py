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
B_FRAMES = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=12"}


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


def encode_two(path: Path, sizes: Sequence[tuple[int, int]], num: int = 6) -> None:
    """A file with a stream of pictures of each size (H, W), grey levels as in `picture`, one brighter per stream."""
    with av.open(str(path), "w") as container:
        streams = []
        for height, width in sizes:
            stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append(stream)
        for number in range(num):
            for place, (stream, (height, width)) in enumerate(zip(streams, sizes, strict=True)):
                image = np.full((height, width, 3), level(number) + 5 * place, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())


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


@pytest.mark.parametrize("order", [0, 1])
def test_of_two_streams_the_larger_is_the_film(
    order: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [(48, 64), (96, 128)]
    path = tmp_path / "two.mkv"
    encode_two(path, sizes[::-1] if order else sizes)
    record = open_source(path)
    assert tuple(record.image_size[0]) == (96, 128)
    assert record.num_frames == 6
    brighter = 0 if order else 5
    got = [float(read_video_frame(path, number).mean()) for number in range(6)]
    assert got == pytest.approx([level(number) + brighter for number in range(6)], abs=2)
    assert (
        "of 2 streams of pictures the largest film is read, 128x96; left out: 64x48"
        in capsys.readouterr().err
    )


def test_frames_of_a_container_without_true_times_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AVI lists times of decoding; with B-frames they are not those of the pictures."""
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"} | B_FRAMES)
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    record = open_source(path)
    assert record.num_frames == 30
    assert np.ptp(np.diff(record.timestamp)) < 1e-9
    for number in (*range(30), 7, 29, 0, 12):
        assert read_level(path, number) == pytest.approx(level(number), abs=4), number
    assert "its listed times are not those of its pictures" in capsys.readouterr().err


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    record = open_source(path)
    assert tuple(record.image_size[0]) == (48, 96)
    assert read_video_frame(path, 1).shape == (48, 96, 3)
    assert "pixels are 1.5 times as wide as high" in capsys.readouterr().err


def test_pictures_that_change_their_size_are_refused_where_they_do(tmp_path: Path) -> None:
    parts = []
    for number, hw in enumerate(((48, 64), (32, 64))):
        parts.append(tmp_path / f"{number}.h264")
        with av.open(str(parts[-1]), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
            for _ in range(5):
                image = np.full((*hw, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    path = tmp_path / "joined.mkv"
    with av.open(str(joined)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                packet.pts = packet.dts = 40 * number
                packet.time_base = Fraction(1, 1000)
                packet.stream = stream
                target.mux(packet)
    assert read_video_frame(path, 4).shape == (48, 64, 3)
    with pytest.raises(
        UserError, match=r"from frame 5 on, at 0\.2\d* s, pictures are 64x32 instead of 64x48; cut"
    ):
        read_video_frame(path, 5)
