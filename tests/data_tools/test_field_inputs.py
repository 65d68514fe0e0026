"""Inputs of the same kinds as the cases of the field, of our own making: spelling, text, numbers, kinds of pictures."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_data_tools import index
from scal3r_data_tools.formats.files import folders_where
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.config import UserError
from scal3r_train.data.index.source import record_from_images
from scal3r_train.data.io.image_codec import read_image, read_image_header
from scal3r_train.inference.input.image_times import with_times
from scal3r_train.refusal import likely_meant
from scal3r_train.text_file import as_number, is_number, words_of
from tests.data_tools.test_field_cases import GOOD, HEIGHT, WIDTH, colmap, indexed, picture, transforms
from tests.data_tools.test_posed import FULL, NAMES, POSES, make_images, numbers
from tests.data_tools.test_posed import indexed as posed
from tests.data_tools.test_posed import lines as pose_lines

PIXELS = np.asarray(picture())
GREY = np.repeat(np.asarray(picture().convert("L"))[..., None], 3, 2)
NFC = unicodedata.normalize("NFC", "caf\u00e9")
NFD = unicodedata.normalize("NFD", "caf\u00e9")


def _sixteen_bit(path: Path) -> None:
    cv2.imwrite(str(path), PIXELS[..., ::-1].astype(np.uint16) * 257)


def _turned_by_xmp_element(path: Path) -> None:
    picture().save(path, lossless=True, xmp=b"<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>")


# By file name: how it is written, and what it shows.
PICTURES: dict[str, tuple[Callable[[Path], None], np.ndarray]] = {
    "rgb16.png": (_sixteen_bit, PIXELS),
    "cmyk.jpg": (lambda path: picture().convert("CMYK").save(path, quality=95), PIXELS),
    "grey_alpha.png": (lambda path: picture().convert("LA").save(path), GREY),
    "palette.png": (lambda path: picture().convert("P").save(path), PIXELS),
    "ycbcr.tif": (lambda path: picture().convert("YCbCr").save(path), PIXELS),
    "film.webp": (
        lambda path: picture().save(
            path, save_all=True, append_images=[picture().rotate(180)], lossless=True
        ),
        PIXELS,
    ),
    "two.jpg": (
        lambda path: picture().save(path, "MPO", save_all=True, append_images=[picture()], quality=95),
        PIXELS,
    ),
    "element.webp": (_turned_by_xmp_element, np.rot90(PIXELS, -1)),
    "really_a_jpeg.png": (lambda path: picture().save(path, "JPEG", quality=95), PIXELS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_header_and_decoder_agree_on_other_kinds_of_pictures(name: str, tmp_path: Path) -> None:
    write, expected = PICTURES[name]
    write(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape[:2] == read_image_header(tmp_path / name).hw
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        (f"images/{NFC}.jpg", f"images/{NFD}.jpg"),
        (f"images/{NFD}.jpg", f"images/{NFC}.jpg"),
        ("Images/A 1.JPG", "images/a 1.jpg"),
        ("images\\a1.jpg", "images/a1.jpg"),
        ("./images/a1.jpg ", "images/a1.jpg"),
    ],
)
def test_names_are_found_however_they_are_spelled(listed: str, there: str, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    (scene / there).parent.mkdir(parents=True)
    picture().save(scene / there)
    frame = {"file_path": listed, "transform_matrix": np.eye(4).tolist()}
    (scene / "transforms.json").write_text(json.dumps(GOOD | {"frames": [frame]}), encoding="utf-8")
    (record,) = indexed("nerfstudio", scene)
    assert record.image == (there,)
    name = listed.strip().replace("\\", "/").split("/")[-1]
    colmap(tmp_path / "model", 1, name=name.replace("{", ""))
    disk = there.rsplit("/", maxsplit=1)[-1]
    (tmp_path / "model" / "images" / name).rename(tmp_path / "model" / "images" / disk)
    (record,) = indexed("colmap", tmp_path / "model")
    assert record.image == (f"images/{disk}",)
    pictures = record_from_images(scene / "images")
    (tmp_path / "times.txt").write_text(f"2.5 rgb\\{name}\n", encoding="utf-8")
    assert with_times(pictures, tmp_path / "times.txt").timestamp.tolist() == [2.5]


def test_what_two_files_fit_is_not_found(tmp_path: Path) -> None:
    transforms(tmp_path / "scene", GOOD)
    for name in ("A.jpg", "a.jpg"):
        picture().save(tmp_path / "scene" / "images" / name)
    document = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    for frame, name in zip(document["frames"], ("images/A.JPG", "images/gone.jpg"), strict=True):
        frame["file_path"] = name
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"images/A\.JPG for one \(there is images/A\.jpg\); check file_path"):
        indexed("nerfstudio", tmp_path / "scene")


@pytest.mark.parametrize("matrix", [np.eye(3).tolist(), "text", [[1, 0], [0]], 5, []])
def test_matrices_that_are_none_count_as_no_pose(matrix: Any, tmp_path: Path) -> None:
    transforms(tmp_path / "scene", GOOD)
    document = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    document["frames"][0]["transform_matrix"] = matrix
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(document))
    (record,) = indexed("nerfstudio", tmp_path / "scene")
    assert (record.num_frames, record.num_missing) == (1, 1)
    document["frames"][0]["file_path"] = 7
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="file_path of a frame is 7; it must be the name of a file"):
        indexed("nerfstudio", tmp_path / "scene")


@pytest.mark.parametrize("camera", ["0 21 12 8", "nan 21 12 8", "-20 21 12 8", "20 21 inf 8"])
def test_cameras_that_are_none_are_refused(camera: str, tmp_path: Path) -> None:
    colmap(tmp_path / "model", 2)
    (tmp_path / "model/sparse/0/cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {camera}\n")
    with pytest.raises(UserError, match=r"cameras\.txt: PINHOLE .* is no camera"):
        indexed("colmap", tmp_path / "model")
    drive = tmp_path / "kitti" / "sequences" / "04"
    (drive / "image_2").mkdir(parents=True)
    picture().save(drive / "image_2" / "000000.png")
    fx, fy, cx, cy = camera.split()
    (drive / "calib.txt").write_text(f"P2: {fx} 0 {cx} 0 0 {fy} {cy} 0 0 0 1 0\n")
    (drive / "times.txt").write_text("0\n")
    with pytest.raises(UserError, match=r"calib\.txt: P2: .* is no camera") as caught:
        indexed("kitti_odometry", tmp_path / "kitti")
    assert "\n" not in str(caught.value)


POSE_TEXTS = {
    "tabs, CRLF": pose_lines(POSES).replace(" ", "\t").replace("\n", "\r\n"),
    "D exponents": pose_lines(POSES).replace("1.0 ", "1.0D+00 "),
    "commas below a heading": "r11,r12,r13,tx\n" + pose_lines(POSES, separator=","),
    "semicolons at the ends": pose_lines(POSES).replace("\n", ";\n\n"),
}


@pytest.mark.parametrize("kind", POSE_TEXTS)
def test_text_as_people_write_it(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "drive"
    make_images(source, NAMES)
    (source / "poses.txt").write_bytes(POSE_TEXTS[kind].encode())
    record = posed(source, "intrinsics=none")
    assert record.cam_from_world is not None
    np.testing.assert_allclose(record.cam_from_world, np.linalg.inv(FULL)[:, :3], atol=1e-9)


def test_names_that_python_reads_as_numbers_are_names(tmp_path: Path) -> None:
    names = [f"{number}_1.png" for number in range(4)]
    make_images(tmp_path / "drive", names)
    text = pose_lines(POSES[::-1], before=[name.removesuffix(".png") for name in names[::-1]])
    (tmp_path / "drive" / "poses.txt").write_text(text)
    record = posed(tmp_path / "drive", "intrinsics=none")
    np.testing.assert_allclose(record.cam_from_world, np.linalg.inv(FULL)[:, :3], atol=1e-9)


@pytest.mark.parametrize(
    "document",
    [
        {
            "poses": [
                {"name": name.upper(), "R": one[:, :3].tolist(), "t": one[:, 3].tolist()}
                for name, one in zip(NAMES, POSES, strict=True)
            ]
        },
        {"cameras": dict(zip(NAMES, POSES.tolist(), strict=True))},
        {name: {"pose": one.ravel().tolist()} for name, one in zip(NAMES, POSES, strict=True)},
    ],
)  # fmt: skip
def test_json_at_other_levels(document: Any, tmp_path: Path) -> None:
    make_images(tmp_path / "drive", NAMES)
    (tmp_path / "drive" / "poses.json").write_text(json.dumps(document))
    record = posed(tmp_path / "drive", "intrinsics=none")
    np.testing.assert_allclose(record.cam_from_world, np.linalg.inv(FULL)[:, :3], atol=1e-9)


def test_cameras_of_gaussian_splatting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "drive", NAMES)
    document = [
        {
            "id": number,
            "img_name": name.removesuffix(".png"),
            "width": 24,
            "height": 16,
            "position": one[:, 3].tolist(),
            "rotation": one[:, :3].tolist(),
            "fy": 42.0,
            "fx": 40.0,
            "shutter": 1,
        }
        for number, (name, one) in enumerate(zip(NAMES, POSES, strict=True))
    ]
    (tmp_path / "drive" / "cameras.json").write_text(json.dumps(document))
    record = posed(tmp_path / "drive")
    np.testing.assert_allclose(record.cam_from_world, np.linalg.inv(FULL)[:, :3], atol=1e-9)
    np.testing.assert_allclose(record.intrinsics, np.tile([20, 21, 6, 4], (4, 1)))
    assert "not read: shutter" in capsys.readouterr().err
    document[2]["fx"] = 0.0
    (tmp_path / "drive" / "cameras.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="fx fy cx cy of an entry are .0.0, 42.0, 12.0, 8.0."):
        posed(tmp_path / "drive")


@pytest.mark.parametrize(
    "content",
    [
        {"fx": None, "fy": 21, "cx": 6, "cy": 4},
        {"fx": "20", "fy": 21, "cx": 6, "cy": 4},
        {"fx": True, "fy": 21, "cx": 6, "cy": 4},
        {"fx": float("nan"), "fy": 21, "cx": 6, "cy": 4},
        {"fx": 0, "fy": 21, "cx": 6, "cy": 4},
        {"fx": 20, "fy": 21, "cx": 6, "cy": 4, "w": 0, "h": 8},
        {"K": None},
        "20 21 6 4 0 0",
        "1e400 21 6 4",
    ],
)
def test_calibrations_that_are_none_are_refused_in_a_line(content: Any, tmp_path: Path) -> None:
    make_images(tmp_path / "drive", NAMES)
    (tmp_path / "drive" / "poses.txt").write_text(pose_lines(POSES))
    name = "calib.txt" if isinstance(content, str) else "camera.json"
    (tmp_path / "drive" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        posed(tmp_path / "drive")
    assert "\n" not in str(caught.value)


def test_order_of_a_quaternion_is_that_of_its_heading(tmp_path: Path) -> None:
    names = [f"{number}.5.png" for number in range(4)]
    make_images(tmp_path / "drive", names)
    quaternions = [[*pose[:, 3], *_quaternion(pose)] for pose in POSES]
    rows = [f"{number}.5 {numbers(row)}" for number, row in enumerate(quaternions)]
    (tmp_path / "drive" / "groundtruth.txt").write_text(
        "#timestamp p_x p_y p_z q_x q_y q_z q_w\n" + "\n".join(rows)
    )
    record = posed(tmp_path / "drive", "intrinsics=none")
    np.testing.assert_allclose(record.cam_from_world, np.linalg.inv(FULL)[:, :3], atol=1e-9)
    assert record.timestamp.tolist() == [0.5, 1.5, 2.5, 3.5]


def _quaternion(pose: np.ndarray) -> list[float]:
    return Rotation.from_matrix(pose[:, :3]).as_quat().tolist()


@pytest.mark.parametrize(
    ("listing", "suffix"),
    [
        (None, "jpg"),
        ("timestamp,filename\n0.5,rgb/0.5.png\n1.5,rgb/1.5.png\n", "png"),
        ("\ufeff# a\r\n0.5\trgb\\0.5.PNG\r\n1.5  rgb\\1.5.PNG\r\n", "png"),
    ],
)
def test_lists_of_tum(listing: str | None, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "fr1_x"
    (folder / "rgb").mkdir(parents=True)
    for time in (0.5, 1.5):
        picture().save(folder / "rgb" / f"{time}.{suffix}")
    if listing is not None:
        (folder / "rgb.txt").write_text(listing, encoding="utf-8", newline="")
    (folder / "groundtruth.txt").write_text("time,x,y,z,qx,qy,qz,qw\n0.5,1,0,0,0,0,0,1\n1.5,2,0,0,0,0,0,1\n")
    (record,) = indexed("tum", folder)
    assert record.image == (f"rgb/0.5.{suffix}", f"rgb/1.5.{suffix}")


def test_numbers_and_words() -> None:
    good = ("1", "-1.5", "+.5", "1.", "1e-3", "1D+02", "nan", "-Inf")
    assert [is_number(word) for word in good] == [True] * len(good)
    assert [as_number(word) for word in good[:6]] == [1, -1.5, 0.5, 1, 1e-3, 100]
    assert not any(is_number(word) for word in ("1_0", "", "0x10", "1e", "\u0663", "1,5", "--1", "1 2"))
    assert words_of(" 1,2;\t3 , 4 ;\n") == ["1", "2", "3", "4"]


def test_folders_in_circles_are_searched_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "rgb").mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    found = list(folders_where(tmp_path, lambda names: "rgb" in names, 5))
    assert found == [tmp_path / "a", tmp_path / "again"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("kitti", ["kitti_odometry", "kitti_raw"]),
        ("7-Scenes", ["seven_scenes"]),
        ("scannet++", ["scannet_pp"]),
        ("TUM_RGBD", ["tum"]),
        ("oxford", ["oxford_spires"]),
        ("nerfstudo", ["nerfstudio"]),
        ("zzz", []),
    ],
)
def test_the_nearest_name_is_suggested(given: str, meant: list[str], tmp_path: Path) -> None:
    assert likely_meant(given, ADAPTERS) == meant
    said = f"did you mean {' or '.join(meant)}\\? known are" if meant else "is unknown; known are"
    with pytest.raises(UserError, match=said):
        index.main(given, tmp_path, tmp_path / "x.parquet")
