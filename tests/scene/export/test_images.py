"""Images: their names, what the user is told about them, and the files that fit the cameras."""

from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from scal3r_train import cli
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import make_image, make_scene

HW = (48, 64)


def scene_of(tmp_path: Path, *names: str, lens: str | None = None, **info: object) -> Path:
    """A scene of landscape images below tmp_path / photos, which are not written."""
    frames = len(names)
    parts = {"chunks": ((0, frames),), "provided_frames": ((0, frames),)}
    input_ = {"dataset": "images", "root": str(tmp_path / "photos"), "lens": lens}
    whole = {"input": input_, **parts, **info}
    return make_scene(tmp_path / "scene", 10, names=names, sizes=(HW,) * frames, **whole)


def write_video(path: Path, num_frames: int) -> None:
    """Frames of one grey each, 20 apart."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = HW[1], HW[0], "yuv420p"
        for number in range(num_frames):
            image = np.full((*HW, 3), 40 + 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def names_of(output: Path) -> list[str]:
    model = pycolmap.Reconstruction(output)
    return [model.images[number].name for number in sorted(model.images)]


@pytest.mark.parametrize("writes_images", [False, True])
def test_frames_of_a_video(
    tmp_path: Path, export: Run, capsys: pytest.CaptureFixture, writes_images: bool
) -> None:
    write_video(tmp_path / "photos/sub/drive.mp4", 8)
    folder = scene_of(
        tmp_path,
        "sub/drive.mp4#2",
        "sub/drive.mp4#7",
        input={"dataset": "video", "root": str(tmp_path / "photos")},
    )
    output = export(folder, "colmap", *(["--write-images"] if writes_images else []))
    assert names_of(output) == ["sub/drive/000002.jpg", "sub/drive/000007.jpg"]
    if writes_images:
        for number in (2, 7):
            image = np.asarray(Image.open(output / f"images/sub/drive/{number:06d}.jpg"))
            assert image.shape == (*HW, 3)
            assert abs(image.mean() - (40 + 20 * number)) < 4
        assert capsys.readouterr().err == ""
    else:
        assert "--write-images" in capsys.readouterr().err
        assert not (output / "images").exists()


def test_a_turned_image_is_named_and_written_upright(
    tmp_path: Path, export: Run, capsys: pytest.CaptureFixture
) -> None:
    folder = scene_of(tmp_path, "a.png", "turned.png", "missing.png")
    upright = make_image(tmp_path / "photos/a.png", HW)
    exif = Image.Exif()
    exif[274] = 6  # as a phone held upright writes it
    stored = make_image(tmp_path / "photos/turned.png", HW[::-1], exif=exif)
    export(folder, "colmap")
    told = capsys.readouterr().err
    assert "1 of 3 images (first: turned.png) are turned by EXIF" in told
    assert "1 of 3 images (first: missing.png) are not in" in told
    make_image(tmp_path / "photos/missing.png", HW)
    output = export(folder, "colmap", "--write-images", name="again")
    written = Image.open(output / "images/turned.png")
    np.testing.assert_array_equal(np.asarray(written), np.rot90(stored, -1))
    assert not written.getexif()
    np.testing.assert_array_equal(np.asarray(Image.open(output / "images/a.png")), upright)


def test_a_lens_is_undone(tmp_path: Path, export: Run, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "cameras.txt").write_text("1 OPENCV 64 48 60 60 32 24 -0.2 0.05 0 0\n")
    folder = scene_of(
        tmp_path, "a.png", recipe={"input": {"intrinsics": str(tmp_path / "cameras.txt")}}, lens="OPENCV"
    )
    image = cv2.GaussianBlur(make_image(tmp_path / "photos/a.png", HW), (0, 0), 3)
    image = np.clip(128 + 5.0 * (image.astype(float) - 128), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photos/a.png")
    output = export(folder, "colmap", "--write-images")
    # cv2 counts from the centre of the top-left pixel.
    matrix = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    expected = cv2.undistort(image, matrix, np.array([-0.2, 0.05, 0, 0]))
    written = np.asarray(Image.open(output / "images/a.png"))
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(written[inner].astype(int) - expected[inner]).max() <= 2
    assert np.abs(written[inner].astype(int) - image[inner]).max() > 5
    capsys.readouterr()
    export(folder, "colmap", name="without")
    assert "undistorted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("../a.png",), "outside its root"),
        (("/etc/a.png",), "outside its root"),
        (("a.png", "a.png"), "has image a.png twice"),
        (("a.png",), "does not exist"),
    ],
)
def test_images_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, names: tuple[str, ...], problem: str
) -> None:
    folder = scene_of(tmp_path, *names)
    command = ["export", str(folder), str(tmp_path / "o"), "--to", "nerfstudio", "--write-images"]
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert problem in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_images_of_another_size_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = scene_of(tmp_path, "a.png")
    make_image(tmp_path / "elsewhere/a.png", (96, 128))
    command = [
        "export",
        str(folder),
        str(tmp_path / "o"),
        "--to",
        "colmap",
        "--images",
        str(tmp_path / "elsewhere"),
    ]
    assert cli.main(command) == 0
    assert "of another size than the scene says" in capsys.readouterr().err
    assert cli.main([*command, "--write-images", "--overwrite"]) == 2
    assert "128x96 pixels, the scene says 64x48" in capsys.readouterr().err


def test_without_pyav_frames_of_a_video_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = scene_of(tmp_path, "drive.mp4#0")
    make_image(tmp_path / "photos/drive.png", HW)
    (tmp_path / "photos/drive.png").rename(tmp_path / "photos/drive.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert cli.main(["export", str(folder), str(tmp_path / "o"), "--to", "colmap", "--write-images"]) == 2
    assert "pip install 'scal3r_train[video]'" in capsys.readouterr().err
