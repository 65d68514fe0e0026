"""Images, poses and calibrations as people have them: every form of a file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from benchmarks.posed_samples import SAMPLES, differences, rows_of
from scal3r_data_tools import index
from scal3r_data_tools.checking.evidence import CheckSettings
from scal3r_data_tools.checking.examine import examine
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.miniature import make_miniature

NUM = 4
TURNS = Rotation.from_rotvec(np.linspace([0.1, 0.2, 0.3], [0.5, -0.4, 0.2], NUM))
PLACES = np.linspace([1.0, 2, 3], [4.0, 2.5, 9], NUM)
POSES = np.concatenate([TURNS.as_matrix(), PLACES[:, :, None]], 2)  # world_from_cam
FULL = np.concatenate([POSES, np.tile([[[0.0, 0, 0, 1]]], (NUM, 1, 1))], 1)
EXPECTED = np.linalg.inv(FULL)[:, :3]
NAMES = [f"{number:03d}.png" for number in range(NUM)]


def numbers(values: Any, separator: str = " ") -> str:
    return separator.join(repr(float(value)) for value in np.ravel(values))


def lines(rows: Any, before: Any = None, separator: str = " ") -> str:
    fronts = [""] * len(rows) if before is None else [f"{front}{separator}" for front in before]
    return "".join(f"{front}{numbers(row, separator)}\n" for front, row in zip(fronts, rows, strict=True))


QUATERNIONS = np.concatenate([PLACES, TURNS.as_quat()], 1)
WXYZ = np.concatenate([PLACES, np.roll(TURNS.as_quat(), 1, axis=1), np.zeros((NUM, 9))], 1)
SECONDS = [10.5, 10.75, 11.0, 11.25]
NANOSECONDS = [1403636580838555648 + number * 50_000_000 for number in range(NUM)]
OPENGL = FULL @ np.diag([1.0, -1, -1, 1])
HOLOLENS = np.concatenate([np.tile([20.0, 21.0], (NUM, 1)), OPENGL.reshape(NUM, 16)], 1)
OTHER_NAMES = [f"x{name}" for name in NAMES]

# By form: names of the images, name of the pose file, its text, options.
FORMS: dict[str, tuple[list[str], str, str, list[str]]] = {
    "kitti": (NAMES, "poses.txt", lines(POSES), []),
    "4x4 a line, commas": (NAMES, "poses.csv", lines(FULL, separator=","), []),
    "4x4 by columns": (NAMES, "poses.txt", lines(FULL.swapaxes(1, 2)), []),
    "blocks of 4": (NAMES, "poses.txt", "\n".join(lines(one) for one in FULL), []),
    "blocks of 3": (NAMES, "poses.txt", "\n".join(lines(one) for one in POSES), []),
    "a heading": (NAMES, "poses.txt", "r11 r12 and so on\n" + lines(POSES), []),
    "comments and a byte order mark": (NAMES, "poses.txt", "\ufeff# poses\n" + lines(POSES), []),
    "position and quaternion": (NAMES, "traj.txt", lines(QUATERNIONS), []),
    "number and matrix": (NAMES, "poses.txt", lines(POSES, before=range(NUM)), []),
    "names": (NAMES, "poses.txt", lines(POSES[::-1], before=[f"rgb\\{name}" for name in NAMES[::-1]]), []),
    "numbers as names": (NAMES, "poses.txt", lines(QUATERNIONS[::-1], before=["003", "002", "001", "000"]), []),
    "names with blanks": (
        [f"a view {number}.png" for number in range(NUM)],
        "poses.txt",
        lines(FULL[::-1], before=[f"a view {number}.png" for number in range(NUM)][::-1]),
        [],
    ),
    "tum": (
        [f"{time:.6f}.png" for time in SECONDS],
        "groundtruth.txt",
        lines(QUATERNIONS, before=[time + 0.004 for time in SECONDS]),
        [],
    ),
    "euroc": (
        [f"{time}.png" for time in NANOSECONDS],
        "state_groundtruth_estimate0/data.csv",
        "#timestamp [ns], p_RS_R_x [m], p_y, p_z, q_RS_w [], q_x, q_y, q_z, v, b\n"
        + "".join(f"{time},{numbers(row, ',')}\n" for time, row in zip(NANOSECONDS, WXYZ, strict=True)),
        [],
    ),
    "json by name": (NAMES, "poses.json", json.dumps(dict(zip(NAMES, FULL.tolist(), strict=True))), []),
    "json list": (NAMES, "poses.json", json.dumps(POSES.reshape(NUM, 12).tolist()), []),
    "json of objects": (
        NAMES,
        "cameras.json",
        json.dumps([{"image": name, "c2w": one} for name, one in zip(NAMES, FULL.tolist(), strict=True)][::-1]),
        [],
    ),
    "opengl": (NAMES, "poses.txt", lines(OPENGL), ["camera_axes=opengl"]),
    "cam_from_world": (NAMES, "poses.txt", lines(np.linalg.inv(FULL)), ["poses_are=cam_from_world"]),
    "hololens": (
        NAMES,
        "pv.txt",
        "6.5,4.5,12,8\n" + lines(HOLOLENS, before=range(NUM), separator=","),
        ["match=order"],
    ),
}  # fmt: skip


def make_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (12, 8)).save(folder / name)


def indexed(folder: Path, *options: str) -> SequenceRecord:
    assert index.main("posed", folder, folder.parent / "index.parquet", list(options)) == 0
    return load_index(folder.parent / "index.parquet")[0]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_poses_is_read(form: str, tmp_path: Path) -> None:
    names, file, text, options = FORMS[form]
    source = tmp_path / "drive"
    make_images(source / "images", names)
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_text(text, encoding="utf-8")
    record = indexed(source, *(["intrinsics=20 21 6.5 4.5"] if form != "hololens" else []), *options)
    assert [Path(name).name for name in record.image] == names
    assert record.cam_from_world is not None
    np.testing.assert_allclose(record.cam_from_world, EXPECTED, atol=1e-9)
    np.testing.assert_array_equal(record.intrinsics, np.tile([20, 21, 6.5, 4.5], (NUM, 1)))
    assert record.num_missing == 0


@pytest.mark.parametrize("kind", ["beside", "folder", "npy", "strecha"])
def test_a_file_an_image(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "drive"
    names = [f"frame-{number:06d}.color.png" for number in range(NUM)]
    make_images(source if kind == "beside" else source / "rgb", names)
    (source / "poses").mkdir()
    for number in range(NUM):
        if kind == "beside":
            (source / f"frame-{number:06d}.pose.txt").write_text(lines(FULL[number]))
        elif kind == "folder":
            (source / "poses" / f"{number:06d}.txt").write_text(numbers(POSES[number]))
        elif kind == "npy":
            np.save(source / "poses" / f"frame-{number:06d}.npy", FULL[number])
        else:
            text = f"20 0 6.5\n0 21 4.5\n0 0 1\n0 0 0\n{lines(POSES[number, :, :3])}{numbers(PLACES[number])}\n12 8\n"
            (source / "poses" / f"{names[number]}.camera").write_text(text)
    if kind == "beside":
        (source / "poses").rmdir()
    record = indexed(source, *([] if kind == "strecha" else ["fov_x_deg=60"]))
    assert record.cam_from_world is not None
    np.testing.assert_allclose(record.cam_from_world, EXPECTED, atol=1e-9)
    assert record.intrinsics is not None
    if kind == "strecha":
        np.testing.assert_array_equal(record.intrinsics[0], [20, 21, 6.5, 4.5])
    else:
        np.testing.assert_allclose(record.intrinsics[0], [6 * np.sqrt(3), 6 * np.sqrt(3), 6, 4])


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("K.txt", "20 0 6.5\n0 21 4.5\n0 0 1\n", []),
        ("intrinsic.txt", "20 0 6.5 0\n0 21 4.5 0\n0 0 1 0\n0 0 0 1\n", []),
        ("calib.txt", "fx fy cx cy w h\n20 21 6.5 4.5 12 8\n", []),
        ("calib.txt", "40 42 13 9 24 16", []),
        ("calib.txt", "40 42 13 9", ["calibrated_size=[24,16]"]),
        ("intrinsics.txt", "fx: 20\nfy: 21\ncx: 6.5\ncy: 4.5\n", []),
        ("intrinsics.txt", "".join(f"{name} 20 21 6.5 4.5\n" for name in NAMES[::-1]), []),
        ("intrinsics.txt", "20 21 6.5 4.5\n" * NUM, []),
        ("camera.json", '{"fx": 20, "fy": 21, "cx": 6.5, "cy": 4.5}', []),
        ("intrinsics.json", '{"K": [[40, 0, 13], [0, 42, 9], [0, 0, 1]], "width": 24, "height": 16}', []),
        ("calib.txt", "P0: 1 0 0 0 0 1 0 0 0 0 1 0\nP2: 20 0 6.5 0 0 21 4.5 0 0 0 1 0\n", []),
    ],
)  # fmt: skip
def test_every_form_of_calibration_is_read(name: str, text: str, options: list[str], tmp_path: Path) -> None:
    source = tmp_path / "drive"
    make_images(source, NAMES)
    (source / "poses.txt").write_text(lines(POSES))
    (source / name).write_text(text)
    record = indexed(source, *options)
    np.testing.assert_allclose(record.intrinsics, np.tile([20, 21, 6.5, 4.5], (NUM, 1)))


def test_missing_images_and_poses_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "drive"
    make_images(source, NAMES[1:3])
    poses = lines(POSES)
    (source / "poses.txt").write_text(poses)
    record = indexed(source, "intrinsics=none")
    np.testing.assert_allclose(record.cam_from_world, EXPECTED[1:3], atol=1e-9)
    assert record.num_missing == 2
    assert record.camera_model == ""
    assert (
        "2 of 2 images have a pose; poses.txt read as a line a pose: 3x4 row by row"
        in capsys.readouterr().err
    )
    rows = poses.splitlines()
    rows[2] = " ".join(["nan"] * 12)
    make_images(source, NAMES)
    (source / "poses.txt").write_text("\n".join(rows))
    record = indexed(source, "intrinsics=none")
    assert [Path(name).name for name in record.image] == [NAMES[0], NAMES[1], NAMES[3]]
    assert record.num_missing == 1


def test_poses_between_two_times(tmp_path: Path) -> None:
    source = tmp_path / "drive"
    make_images(source, ["10.625000.png"])
    (source / "groundtruth.txt").write_text(lines(QUATERNIONS, before=SECONDS))
    record = indexed(source, "intrinsics=none", "interpolate=true", "max_gap_s=0.2")
    assert record.cam_from_world is not None
    centre = -record.cam_from_world[0, :, :3].T @ record.cam_from_world[0, :, 3]
    np.testing.assert_allclose(centre, PLACES[:2].mean(0))


def first_pose_changed(change: Callable[[np.ndarray], None]) -> str:
    poses = FULL.copy()
    change(poses[0])
    return lines(poses)


def scaled(pose: np.ndarray) -> None:
    pose[:3, :3] *= 2.5


def mirrored(pose: np.ndarray) -> None:
    pose[:3, 0] *= -1


def perspective(pose: np.ndarray) -> None:
    pose[3] = [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("file", "text", "options", "said"),
    [
        ("poses.txt", first_pose_changed(scaled), [], "its rows have length 2.5, so a scale is in it"),
        ("poses.txt", first_pose_changed(mirrored), [], "pose 0 mirrors space"),
        ("poses.txt", first_pose_changed(perspective), [], "pose 0 ends in the row 0 0 1 1, which must be 0 0 0 1"),
        ("poses.txt", lines(POSES[:2]), [], "poses.txt has 2 poses for 4 images (the first is 000.png)"),
        ("poses.txt", "1 2 3 4 5\n", [], "'1 2 3 4 5' has 5 numbers; a pose is 12"),
        ("poses.txt", lines(POSES) + "1 2 3\n", [], "'1 2 3' has 3 numbers, the first line has 12"),
        ("poses.txt", "nothing here\n", [], "holds no numbers"),
        ("poses.txt", " ".join(["nan"] * 12), [], "holds no pose that is finite"),
        ("poses.txt", lines(POSES, before=OTHER_NAMES), [], "names 'x000.png', the images are called '000.png'"),
        ("groundtruth.txt", lines(QUATERNIONS, before=SECONDS), ["match=time"], "the images have no times"),
        ("groundtruth.txt", lines(QUATERNIONS, before=SECONDS), ["times=t.txt"], "t.txt does not exist; name the file"),
        ("mine.dat", lines(POSES), [], "name it with poses=FILE (there is mine.dat)"),
        ("poses.json", '{"frames": []}', [], "index it with `scal3r data index nerfstudio`"),
        ("poses.json", '{"000.png": [1, 2, 3]}', [], "the pose of 000.png is no 3x4 or 4x4 matrix"),
        ("poses.json", '[{"image": "000.png"}]', [], "none of pose, matrix, transform"),
        ("poses.txt", lines(POSES), ["intrinsics=20 21 6"], None),
        ("poses.txt", lines(POSES), ["intrinsics=0 21 6 4"], "focal lengths must be above 0"),
        ("poses.txt", lines(POSES), ["intrinsics=20 21"], "holds 2 numbers; give fx fy cx cy"),
        ("poses.txt", lines(POSES), ["intrinsics=absent.txt"], "absent.txt does not exist"),
        ("poses.txt", lines(POSES), ["images=left"], "holds no images in left; name theirs with images=FOLDER"),
        ("poses.txt", lines(POSES), ["depth_codec=uint16"], "depth_codec uint16 is not one of"),
        ("poses.txt", lines(POSES), ["depth=z"], "z does not exist; depth= is a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_line(
    file: str, text: str, options: list[str], said: str | None, tmp_path: Path
) -> None:
    source = tmp_path / "drive"
    make_images(source, NAMES)
    (source / file).write_text(text)
    given = options if any("intrinsics" in option for option in options) else ["intrinsics=none", *options]
    if said is None:
        assert indexed(source, *given).intrinsics is not None
        return
    with pytest.raises(UserError) as caught:
        indexed(source, *given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_of_png_needs_its_codec(tmp_path: Path) -> None:
    source = tmp_path / "drive"
    make_images(source / "rgb", NAMES)
    (source / "depth").mkdir()
    for name in NAMES[:2]:
        Image.fromarray(np.full((8, 12), 1500, np.uint16)).save(source / "depth" / name)
    (source / "poses.txt").write_text(lines(POSES))
    with pytest.raises(UserError, match="needs depth_codec=, such as uint16_mm"):
        indexed(source, "intrinsics=20 21 6 4")
    record = indexed(source, "intrinsics=20 21 6 4", "depth_codec=uint16_mm")
    assert record.depth == ("depth/000.png", "depth/001.png", "", "")
    assert indexed(source, "intrinsics=20 21 6 4", "depth=none").depth == ()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["camera_axes=opengl"], ""),
        ([], "camera_axes=opengl"),
        (["camera_axes=opengl", "poses_are=cam_from_world"], "the other poses_are="),
    ],
)
def test_check_names_the_options(given: list[str], named: str, tmp_path: Path) -> None:
    scene = make_miniature()
    source = tmp_path / "drive"
    source.mkdir()
    for number in range(scene.num_frames):
        Image.fromarray(scene.images[number]).save(source / f"{number:03d}.png")
    (source / "poses.txt").write_text(lines(scene.world_from_cam @ np.diag([1.0, -1, -1, 1])))
    intrinsics = f"intrinsics={numbers(scene.intrinsics[0])}"
    record = indexed(source, intrinsics, *given)
    settings = CheckSettings(num_pairs=18, gaps=(1, 3), max_features=600)
    problems = examine(record, settings).problems
    assert bool(problems) == bool(named), problems
    assert not named or any(f"; index again with {named}" in problem for problem in problems), problems


@pytest.mark.parametrize("name", SAMPLES)
def test_real_samples_are_equal_through_their_own_adapters(
    name: str, shared_dir: Path, tmp_path: Path
) -> None:
    own, posed = rows_of(SAMPLES[name], shared_dir / "data", tmp_path)
    found = differences(own, posed)
    assert max(found.values()) < 1e-9, found
    assert own.num_frames > 0
