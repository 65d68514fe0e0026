"""Videos that were cut off: what is left is used, and what is lost is counted."""

from pathlib import Path

import av
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.data.io.video_frames import num_lost_frames
from tests.data.io.test_video_frames import NUM_FRAMES, encode, level, read_level

TIMES = range(0, 4 * NUM_FRAMES, 4)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def put_index_first(path: Path) -> None:
    """As files for streaming have it; otherwise a cut .mp4 is lost."""
    target = path.with_name("first.mp4")
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    target.rename(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "2", "crf": "10"}),
        ("a.mkv", "libx264", {"g": "12", "bf": "2", "crf": "10"}),
        ("a.avi", "mpeg4", {"g": "12", "q": "2"}),
    ],
)
@pytest.mark.parametrize("share", [0.55, 0.7, 0.93])
def test_every_frame_of_a_cut_off_video_can_be_read(
    name: str, codec: str, options: dict[str, str], share: float, tmp_path: Path
) -> None:
    path = tmp_path / name
    encode(path, codec, TIMES, options)
    if name == "a.mp4":
        put_index_first(path)
    assert num_lost_frames(path) == 0
    shorter = tmp_path / f"cut_{name}"
    shorter.write_bytes(path.read_bytes())
    cut(shorter, share)
    record = open_source(shorter)
    assert share * 0.4 * NUM_FRAMES < record.num_frames <= NUM_FRAMES  # of .avi the last part is a table
    shown = [round(time / 0.04) for time in record.timestamp]
    assert shown[:-1] == list(range(record.num_frames - 1))  # before the last one a B frame may be lost
    for number in range(record.num_frames):
        assert read_level(shorter, number) == pytest.approx(level(shown[number]), abs=8)
    if name == "a.mp4":  # its header says how many there were
        assert record.num_missing == NUM_FRAMES - record.num_frames


def test_an_mp4_without_its_index_is_one_line(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", "libx264", TIMES, {"crf": "10"})
    cut(tmp_path / "a.mp4", 0.8)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read") as error:
        open_source(tmp_path / "a.mp4")
    assert "\n" not in str(error.value)
