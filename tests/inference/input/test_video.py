"""Which frames are used, at which size, and what comes of images that are not as they should be."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import open_source
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from scal3r_train.model.configuration_scal3r import Scal3RConfig

MODEL = Scal3RConfig(image_size=56)
RANDOM = np.random.default_rng(0)


def put(path: Path, height: int = 60, width: int = 80) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        put(images / f"{number:02d}.png")
    return images


def choose(source: Path, **settings: object) -> Video:
    return Video.choose(open_source(source), InputSettings.model_validate(settings), MODEL)


def test_images_equal_those_read_by_the_training_data_and_survive_eviction(folder: Path) -> None:
    frame_bytes = 3 * 42 * 56
    video = choose(folder, start=1, stride=2, cache_gib=2.5 * frame_bytes / 2**30)
    assert video.image_hw == (42, 56)
    expected = read_frames(video.record, video.frame_indices, video.image_hw)
    for _ in range(2):
        images = video.images(range(6))
        assert images.dtype == torch.uint8
        assert torch.equal(images.float() / 255, expected.images)
    assert torch.equal(video.images(range(2, 4)), images[2:4])
    assert torch.equal(video.images(range(6)), images)
    maps = video.pixel_map_of(range(6))
    assert torch.equal(maps.scale, expected.pixel_map.scale)
    assert torch.equal(maps.offset, expected.pixel_map.offset)


@pytest.mark.parametrize(
    ("height", "width", "hw"), [(60, 80, (42, 56)), (80, 60, (56, 42)), (60, 60, (56, 56))]
)
def test_the_long_side_is_bound_by_default(
    tmp_path: Path, height: int, width: int, hw: tuple[int, int]
) -> None:
    put(tmp_path / "a.jpg", height, width)
    video = choose(tmp_path)
    assert video.image_hw == hw
    assert video.images(range(1)).shape == (1, 3, *hw)


def test_the_released_rule_bounds_the_width(tmp_path: Path) -> None:
    """And stretches the image to multiples of the patch size before the cut (docs/numerics.md#preprocessing)."""
    put(tmp_path / "a.png", 80, 61)
    video = choose(tmp_path, resize={"kind": "width", "size": 56})
    assert video.image_hw == (70, 56)
    record = open_source(tmp_path)
    frames = read_frames(
        record, [0], InputSettings.model_validate({"resize": {"kind": "width", "size": 56}}).resize
    )  # type: ignore[arg-type]
    assert torch.equal(video.images(range(1)).float() / 255, frames.images)
    assert torch.equal(video.pixel_map_of(range(1)).scale, frames.pixel_map.scale)


def test_a_photo_stored_sideways_is_portrait(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    video = choose(tmp_path)
    assert video.image_hw == (56, 42)
    assert video.scene_frames[0].image_hw == (80, 60)
    assert video.images(range(1)).shape == (1, 3, 56, 42)


def test_mixed_sizes_cover_the_shape_of_the_first_and_map_back(tmp_path: Path) -> None:
    for name, height, width in (("a", 60, 80), ("b", 120, 160), ("c", 80, 60), ("d", 70, 80)):
        put(tmp_path / f"{name}.png", height, width)
    video = choose(tmp_path)
    assert video.images(range(4)).shape == (4, 3, 42, 56)
    assert [frame.image_hw for frame in video.scene_frames] == [(60, 80), (120, 160), (80, 60), (70, 80)]
    processed = torch.tensor([[50.0, 0, 28], [0, 50, 21], [0, 0, 1]]).double().repeat(4, 1, 1)
    intrinsics = video.input_intrinsics(range(4), processed)
    # The centre stays the centre; the focal length follows the scale: 80 -> 56, 160 -> 56, 60 -> 56.
    centres = torch.tensor([[40.0, 30], [80, 60], [30, 40], [40, 35]]).double()
    torch.testing.assert_close(intrinsics[:, :2, 2], centres, rtol=0, atol=0.75)
    torch.testing.assert_close(intrinsics[:3, 0, 0], 50 * torch.tensor([80, 160, 60]).double() / 56)
    (note,) = video.notes
    assert note.startswith("1 of 4 images lose up to 4")
    assert torch.equal(video.input_intrinsics(range(2, 3), processed[:1]), intrinsics[2:3])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("gone", r"05\.png does not exist"),
        ("truncated", r"05\.png cannot be read"),
        ("another size", r"05\.png has 80x50 pixels, it should have 80x60"),
        ("text", r"05\.png cannot be read: not an image"),
    ],
)
def test_an_image_that_changes_in_the_middle_of_a_run_is_named(
    folder: Path, damage: str, complaint: str
) -> None:
    video = choose(folder, cache_gib=1e-9)
    video.images(range(12))
    path = folder / "05.png"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "another size":
        put(path, 50, 80)
    else:
        path.write_text("no image")
    video.prefetch(range(12))
    video.images(range(5))
    with pytest.raises(UserError, match=complaint) as error:
        video.images(range(4, 12))
    assert "\n" not in str(error.value)
    path.write_bytes(content)
    assert video.images(range(4, 12)).shape[0] == 8


@pytest.mark.parametrize("num", [1, 2, 5])
def test_few_frames_and_equal_ones(tmp_path: Path, num: int) -> None:
    put(tmp_path / "0.png")
    for number in range(1, num):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "0.png").read_bytes())
    video = choose(tmp_path)
    images = video.images(range(num))
    assert images.shape[0] == num == video.num_frames == len(video.timestamps)
    assert (images == images[:1]).all()
    assert video.notes == ()
    assert video.masks(range(num)) is None
    assert video.known_intrinsics(range(num)) is None


def test_inputs_are_told_apart(folder: Path, tmp_path: Path) -> None:
    same = choose(folder).describe()
    assert choose(folder).describe() == same
    times = tmp_path / "times.txt"
    times.write_text("\n".join(map(str, np.arange(12) / 10)))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "masks/03.png")
    others = [
        choose(folder, stride=2).describe(),
        choose(folder, timestamps=times).describe(),
        choose(folder, masks=tmp_path / "masks").describe(),
        choose(folder, intrinsics="80 80 40 30").describe(),
    ]
    put(folder / "03.png", 60, 82)
    others.append(choose(folder).describe())
    digests = [description["files_sha256"] for description in (same, *others)]
    assert len(set(digests)) == len(digests)


def test_a_video_is_read_as_its_frames(tmp_path: Path) -> None:
    """Frames of a variable rate are chosen by their times."""
    ticks = [0, 4, 8, 30, 34, 60, 61, 62, 63, 90]  # hundredths of a second
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for number, tick in enumerate(ticks):
            image = np.full((48, 64, 3), 20 * number + 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = choose(tmp_path / "a.mp4", fps=10 / 3)  # 0, 0.3, 0.6, 0.9
    assert video.frame_indices == (0, 3, 5, 9)
    video.prefetch(range(4))
    levels = video.images(range(4)).float().mean((1, 2, 3))
    torch.testing.assert_close(levels, torch.tensor([20.0, 80, 120, 200]), rtol=0, atol=4)
    torch.testing.assert_close(video.timestamps, torch.tensor([0, 0.3, 0.6, 0.9]).double())
    assert video.scene_frames[3].name == "a.mp4#9"
