"""Inputs of users that were once misread (K1, K2, K3, K5, K6 of the field notes), small and made here."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from scal3r_data_tools import index
from scal3r_train import notes
from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import image_lines
from scal3r_train.data.index.index import load_index
from scal3r_train.data.index.source import record_from_images
from scal3r_train.data.io import image_codec
from scal3r_train.data.io.image_codec import read_image, read_image_header
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.input.image_times import with_times
from scal3r_train.metrics.trajectory_io import read_trajectory
from scal3r_train.text_file import read_text_file

WIDTH, HEIGHT = 24, 16
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def picture() -> Image.Image:
    """Every corner another colour, so that each way of turning it gives another picture."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = [250, 10, 10]
    pixels[: HEIGHT // 2, WIDTH // 2 :] = [10, 250, 10]
    pixels[HEIGHT // 2 :, : WIDTH // 2] = [10, 10, 250]
    return Image.fromarray(pixels)


def saved(path: Path, orientation: int, where: str) -> None:
    """A picture that says in one of three places how it is to be turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if where == "tiff":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = orientation
        picture().save(path, tiffinfo=tags)
    elif where == "xmp":
        picture().save(path, xmp=XMP.format(orientation).encode(), quality=95)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        picture().save(path, exif=exif, quality=95)


TURNS: dict[int, Any] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("where", "suffix"), [("exif", "jpg"), ("exif", "png"), ("exif", "webp"), ("xmp", "jpg"), ("tiff", "tif")]
)
def test_header_and_decoder_agree_on_every_turn(
    orientation: int, where: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    saved(path, orientation, where)
    header, image = read_image_header(path), read_image(path)
    assert image.shape[:2] == header.hw
    assert header.is_turned == (orientation != 1)
    expected = TURNS[orientation](np.asarray(picture()))
    assert np.abs(image.astype(int) - expected).mean() < 8


def transforms(folder: Path, document: dict[str, Any], num: int = 2, **of_frames: Any) -> None:
    """A scene whose images are there."""
    frames = []
    for number in range(num):
        path = folder / "images" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            picture().save(path)
        pose = np.eye(4)
        pose[0, 3] = number
        frames.append(
            {"file_path": f"images/{number:04d}.jpg", "transform_matrix": pose.tolist(), **of_frames}
        )
    (folder / "transforms.json").write_text(json.dumps(document | {"frames": frames}))


def indexed(dataset: str, source: Path, *options: str) -> list[SequenceRecord]:
    target = source.parent / "index.parquet"
    target.unlink(missing_ok=True)
    assert index.main(dataset, source, target, list(options)) == 0
    loaded = load_index(target)
    return [loaded[number] for number in range(len(loaded))]


GOOD = {"fl_x": 20.0, "fl_y": 21.0, "cx": 12.0, "cy": 8.0, "w": WIDTH, "h": HEIGHT}


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_images_are_left_out_beside_poses(
    orientation: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "scene"
    saved(scene / "images" / "0001.jpg", orientation, "exif")
    transforms(scene, GOOD, num=3)
    (record,) = indexed("nerfstudio", scene)
    assert record.image == ("images/0000.jpg", "images/0002.jpg")
    assert record.num_missing == 1
    assert (
        "1 image to be turned by EXIF is left out, images/0001.jpg for one; poses" in capsys.readouterr().err
    )
    for number in range(3):
        saved(scene / "images" / f"{number:04d}.jpg", orientation, "exif")
    with pytest.raises(UserError, match="all 3 images are to be turned by EXIF"):
        indexed("nerfstudio", scene)


def colmap(folder: Path, num: int, *, second_lines: bool = True, name: str = "{:04d}.jpg") -> None:
    """A text model; a line of points is empty, or left out as by hand."""
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} 20 21 12 8\n")
    between = "\n" if second_lines else ""
    lines = [f"{number + 1} 1 0 0 0 {number} 0 0 1 {name.format(number)}\n{between}" for number in range(num)]
    (model / "images.txt").write_text("# images\n" + "".join(lines))
    (model / "points3D.txt").write_text("")
    (folder / "images").mkdir()
    for number in range(num):
        picture().save(folder / "images" / name.format(number))


def test_turned_images_of_other_sets_are_left_out_too(tmp_path: Path) -> None:
    colmap(tmp_path / "model", 3)
    saved(tmp_path / "model" / "images" / "0002.jpg", 3, "exif")
    (record,) = indexed("colmap", tmp_path / "model")
    assert [Path(name).name for name in record.image] == ["0000.jpg", "0001.jpg"]
    drive = tmp_path / "posed"
    transforms(drive, GOOD)
    (drive / "transforms.json").unlink()
    saved(drive / "images" / "0001.jpg", 8, "xmp")
    (drive / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 2)
    (record,) = indexed("posed", drive, "intrinsics=20 21 12 8")
    assert record.image == ("images/0000.jpg",)
    scene = tmp_path / "kitchen"
    for number in range(3):
        saved(scene / f"frame-{number:06d}.color.jpg", 3 if number == 1 else 1, "exif")
        (scene / f"frame-{number:06d}.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    (record,) = indexed("seven_scenes", scene)
    assert record.num_frames == 2
    assert record.num_missing == 1
    assert record.timestamp.tolist() == [0, 2 / 30]


@pytest.mark.parametrize("second_lines", [True, False])
def test_a_model_without_lines_of_points_is_read_whole(second_lines: bool, tmp_path: Path) -> None:
    colmap(tmp_path / "model", 8, second_lines=second_lines, name="my shot {}.jpg")
    (record,) = indexed("colmap", tmp_path / "model")
    assert record.num_frames == 8
    assert record.num_missing == 0


def test_lines_of_points_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text(
        "1 1 0 0 0 0 0 0 1 0001\n1.5 2.5 -1 3 4 7 5 6 9\n2 1 0 0 0 0 0 0 1 0002\n\n\n3 1 0 0 0 0 0 0 2 a b.png\n9 9 9\n"
    )
    assert [(words[0], words[9]) for words in image_lines(path)] == [
        ("1", "0001"),
        ("2", "0002"),
        ("3", "a b.png"),
    ]
    path.write_text("1 1 0 0 0 0 0 0 1 a.png\n\nnonsense\n")
    with pytest.raises(ValueError, match="line 3, 'nonsense', is no image"):
        list(image_lines(path))


def test_a_field_of_view_of_each_axis(tmp_path: Path) -> None:
    angles = {"camera_angle_x": 2 * math.atan(12 / 20), "camera_angle_y": 2 * math.atan(8 / 21)}
    transforms(tmp_path / "scene", angles)
    (record,) = indexed("nerfstudio", tmp_path / "scene")
    assert record.intrinsics is not None
    np.testing.assert_allclose(record.intrinsics[0], [20, 21, 12, 8])
    transforms(tmp_path / "scene", {"camera_angle_y": angles["camera_angle_y"]})
    (record,) = indexed("nerfstudio", tmp_path / "scene")
    assert record.intrinsics is not None
    np.testing.assert_allclose(record.intrinsics[0], [21, 21, 12, 8])


@pytest.mark.parametrize("key", ["cx", "cy", "w", "h", "fl_y"])
def test_null_is_as_good_as_absent(key: str, tmp_path: Path) -> None:
    without = {name: value for name, value in GOOD.items() if name != key}
    transforms(tmp_path / "scene", without)
    (absent,) = indexed("nerfstudio", tmp_path / "scene")
    transforms(tmp_path / "scene", GOOD | {key: None})
    (null,) = indexed("nerfstudio", tmp_path / "scene")
    np.testing.assert_array_equal(null.intrinsics, absent.intrinsics)


@pytest.mark.parametrize("value", ["sixty", 0, -3, True, [1], float("nan"), float("inf"), "12"])
@pytest.mark.parametrize("key", ["fl_x", "fl_y", "w", "h"])
def test_what_is_no_number_above_0_is_refused_by_its_key(key: str, value: Any, tmp_path: Path) -> None:
    transforms(tmp_path / "scene", GOOD, **{key: value})
    with pytest.raises(
        UserError, match=f"{key} of images/0000.jpg is .*; it must be a number above 0"
    ) as caught:
        indexed("nerfstudio", tmp_path / "scene")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["cx", "k1", "p2"])
def test_what_is_no_number_is_refused_by_its_key(key: str, tmp_path: Path) -> None:
    transforms(tmp_path / "scene", GOOD | {key: "none"})
    with pytest.raises(UserError, match=f'{key} of images/0000.jpg is "none"; it must be a number, or'):
        indexed("nerfstudio", tmp_path / "scene")


def test_a_lens_may_be_said_by_each_frame(tmp_path: Path) -> None:
    transforms(tmp_path / "scene", GOOD, camera_model="OPENCV_FISHEYE", k1=0.1)
    (record,) = indexed("nerfstudio", tmp_path / "scene")
    assert record.camera_model == "opencv_fisheye"
    assert record.distortion is not None
    assert record.distortion[0].tolist() == [0.1, 0, 0, 0]
    document = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    document["frames"][0]["camera_model"] = "PINHOLE"
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="cameras of OPENCV_FISHEYE and PINHOLE; make a scene of each"):
        indexed("nerfstudio", tmp_path / "scene")


def test_keys_that_are_not_read_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transforms(tmp_path / "scene", GOOD | {"aabb_scale": 4, "lens_shift": 1}, rolling_shutter=0.1)
    indexed("nerfstudio", tmp_path / "scene")
    assert capsys.readouterr().err.count("not read: lens_shift, rolling_shutter") == 1


def test_walks_enter_links_and_no_circles(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in "ab":
        (store / name).mkdir(parents=True)
        (store / name / "transforms.json").write_text("{}")
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    (scenes / "a").symlink_to(store / "a")
    (scenes / "again").symlink_to(store / "a")
    (scenes / "up").symlink_to(tmp_path)
    (scenes / "gone").symlink_to(tmp_path / "absent")
    (scenes / "self").symlink_to(scenes / "self")
    (store / "b" / "round").symlink_to(store)
    found = [
        path.relative_to(scenes).as_posix()
        for path in found_below(scenes, lambda name: name == "transforms.json")
    ]
    expected = ["a", "again", "up/store/a", "up/store/b"]
    assert found == [f"{name}/transforms.json" for name in expected]


def test_linked_scenes_of_every_set_that_searches(tmp_path: Path) -> None:
    transforms(tmp_path / "store" / "a", GOOD)
    colmap(tmp_path / "models" / "m", 2)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "scenes" / "m").symlink_to(tmp_path / "models" / "m")
    assert [record.sequence_id for record in indexed("nerfstudio", tmp_path / "scenes")] == ["a"]
    assert [record.sequence_id for record in indexed("colmap", tmp_path / "scenes")] == ["m/sparse/0"]


def test_no_adapter_searches_by_itself() -> None:
    """Path.rglob does not enter linked folders."""
    tools = Path(index.__file__).parent
    users = [
        path.name
        for folder in ("adapters", "formats")
        for path in (tools / folder).glob("*.py")
        if "rglob(" in path.read_text()
    ]
    assert not users


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_letters(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n3 4\n", encoding=encoding)
    assert read_text_file(tmp_path / "a.txt") == "1 2\n3 4\n"
    lines = "".join(f"{time} {time} 0 0 0 0 0 1\n" for time in range(4))
    (tmp_path / "gt.tum").write_text(lines, encoding=encoding)
    assert len(read_trajectory(tmp_path / "gt.tum")) == 4
    record = pictures(tmp_path / "images", ["a b.png", "c.png"])
    (tmp_path / "times.txt").write_text("2.5 a b.png\n3.5 sub\\c.png\n", encoding=encoding)
    assert with_times(record, tmp_path / "times.txt").timestamp.tolist() == [2.5, 3.5]


def pictures(folder: Path, names: list[str]) -> SequenceRecord:
    folder.mkdir()
    for name in names:
        picture().save(folder / name)
    return record_from_images(folder)


def test_times_of_associations(tmp_path: Path) -> None:
    record = pictures(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "times.txt").write_text("1.5, rgb/a.png, 1.6, depth/a.png\n2.5 rgb/b.png 2.6 depth/b.png\n")
    assert with_times(record, tmp_path / "times.txt").timestamp.tolist() == [1.5, 2.5]


def test_pictures_of_other_kinds_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scal3r_train.data.index.source.knows_heif", lambda: False)
    folder = tmp_path / "images"
    pictures(folder, ["a.png"])
    for name in ("b.HEIC", "c.heic", "d.dng", "._e.heic", "notes.txt"):
        (folder / name).write_bytes(b"?")
    assert record_from_images(folder).image == ("a.png",)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(
        "2 .heic files are left out, b.HEIC for one; pip install 'scal3r_train[data]' or convert them to JPEG"
    )
    assert said[1].endswith("1 .dng file is left out, d.dng for one; convert them to JPEG")
    assert len(said) == 2


def test_heic_is_read_where_its_package_is(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    folder = tmp_path / "images"
    folder.mkdir()
    content = BytesIO()
    pillow_heif.from_pillow(picture()).save(content, quality=95)
    (folder / "a.HEIC").write_bytes(content.getvalue())
    record = record_from_images(folder)
    assert record.image == ("a.HEIC",)
    image = read_image(folder / "a.HEIC")
    assert image.shape[:2] == tuple(record.image_size[0])
    assert np.abs(image.astype(int) - np.asarray(picture())).mean() < 12


def test_heic_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_codec, "knows_heif", lambda: False)
    (tmp_path / "a.heic").write_bytes(b"?")
    for read in (read_image, read_image_header):
        with pytest.raises(UserError, match="needs pillow-heif: pip install"):
            read(tmp_path / "a.heic")


def test_tum_vi_has_its_poses_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = tmp_path / "seq" / "mav0" / "cam0"
    times = [1403636579763555584 + 50_000_000 * number for number in range(3)]
    (camera / "data").mkdir(parents=True)
    for time in times:
        picture().convert("L").save(camera / "data" / f"{time}.png")
    (camera / "data.csv").write_text("#t,f\n" + "".join(f"{time},{time}.png\n" for time in times))
    sensor = "intrinsics: [20, 21, 12, 8]\ndistortion_model: equidistant\ndistortion_coefficients: [0.1, 0, 0, 0]\n"
    (camera / "sensor.yaml").write_text(
        sensor + "T_BS: {rows: 4, cols: 4, data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}\n"
    )
    (record,) = indexed("euroc", tmp_path / "seq")
    assert record.cam_from_world is None
    assert "has no poses: none of state_groundtruth_estimate0, mocap0" in capsys.readouterr().err
    truth = camera.parent / "mocap0"
    truth.mkdir()
    rows = [f"{time},{number},0,0,1,0,0,0\n" for number, time in enumerate(times)]
    (truth / "data.csv").write_text("#timestamp,p_x,p_y,p_z,q_w,q_x,q_y,q_z\n" + "".join(rows))
    (record,) = indexed("euroc", tmp_path / "seq")
    assert record.cam_from_world is not None
    np.testing.assert_allclose(record.cam_from_world[:, 0, 3], [0, -1, -2])


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31mred\x07\u202ereversed\udcff.png"
    assert notes.printable(name) == "a\\x1b[31mred\\x07\\u202ereversed\\xff.png"
    notes.note(f"{name}\nsecond line")
    assert capsys.readouterr().err == "note: a\\x1b[31mred\\x07\\u202ereversed\\xff.png second line\n"
