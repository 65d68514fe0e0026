"""Point files of every layout, against trimesh as writer and bytes written by hand."""

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from scal3r_train.config import UserError
from scal3r_train.data.io.point_file import PointFile
from scal3r_train.scene.ply import write_ply

POINTS = np.random.default_rng(0).normal(size=(23, 3)) * 100


def read(path: Path, size: int = 1 << 18) -> np.ndarray:
    blocks = list(PointFile(path).blocks(size))
    assert all(len(block) <= size and block.dtype == np.float64 for block in blocks)
    return np.concatenate([np.empty((0, 3)), *blocks])


@pytest.mark.parametrize("size", [1, 7, 23, 1000])
@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize("with_colour", [False, True])
def test_files_of_trimesh(tmp_path: Path, encoding: str, with_colour: bool, size: int) -> None:
    colours = np.full((23, 4), 200, np.uint8) if with_colour else None
    cloud = trimesh.PointCloud(POINTS, colors=colours)
    (tmp_path / "a.ply").write_bytes(trimesh.exchange.ply.export_ply(cloud, encoding=encoding))
    np.testing.assert_allclose(read(tmp_path / "a.ply", size), POINTS, rtol=1e-6)


def test_faces_behind_the_points_are_passed_over(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    for encoding in ("ascii", "binary"):
        (tmp_path / "a.ply").write_bytes(trimesh.exchange.ply.export_ply(box, encoding=encoding))
        np.testing.assert_allclose(read(tmp_path / "a.ply"), box.vertices, rtol=1e-6)


def test_files_of_reconstruct(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", POINTS, np.zeros((23, 3), np.uint8), np.ones(23))
    np.testing.assert_array_equal(read(tmp_path / "a.ply", 5), POINTS.astype(np.float32))


@pytest.mark.parametrize(("order", "name"), [("<", "little"), (">", "big")])
def test_doubles_in_another_order_keep_their_digits(tmp_path: Path, order: str, name: str) -> None:
    header = (
        f"ply\r\nformat binary_{name}_endian 1.0\r\ncomment x\r\nobj_info y\r\nelement vertex 23\r\n"
        "property uchar red\r\nproperty double z\r\nproperty int16 label\r\nproperty float64 x\r\n"
        "property double y\r\nend_header\r\n"
    )
    places = POINTS + 5e6  # as map coordinates are; float32 would round to half a metre
    rows = b"".join(struct.pack(f"{order}Bdhdd", 7, z, -3, x, y) for x, y, z in places)
    (tmp_path / "a.ply").write_bytes(header.encode() + rows)
    np.testing.assert_array_equal(read(tmp_path / "a.ply", 4), places)
    assert PointFile(tmp_path / "a.ply").num_points == 23


def ascii_ply(path: Path, lines: str, num: int) -> Path:
    header = f"ply\nformat ascii 1.0\nelement vertex {num}\n" + "".join(
        f"property float {k}\n" for k in "ayxz"
    )
    path.write_text(header + "end_header\n" + lines)
    return path


def test_text_in_another_order_and_points_that_are_not_finite(tmp_path: Path) -> None:
    path = ascii_ply(tmp_path / "a.ply", "0 2 1 3\n0 nan 1 1\n9 5 4 6\n0 1 inf 1\n", 4)
    for size in (1, 3, 10):
        assert read(path, size).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_an_empty_cloud_has_no_points(tmp_path: Path) -> None:
    assert len(read(ascii_ply(tmp_path / "a.ply", "", 0))) == 0


def whole(tmp_path: Path) -> bytes:
    write_ply(tmp_path / "whole.ply", POINTS, np.zeros((23, 3), np.uint8), np.ones(23))
    return (tmp_path / "whole.ply").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-5], "holds 22 of 23 points"),
        (lambda data: data.replace(b"float z", b"float w"), "no z"),
        (lambda data: data.replace(b"end_header", b"fin_header"), "no end"),
        (lambda data: data.replace(b"element vertex", b"element thing_"), "first element is no vertex"),
        (lambda data: data.replace(b"property float x", b"property list uchar float x"), "lists"),
        (lambda data: data.replace(b"float x", b"flaot x"), "flaot"),
        (lambda data: data.replace(b"binary_little_endian", b"binary_middle_endian"), "binary_middle_endian"),
        (lambda data: b"solid" + data, "neither a PLY nor a PCD"),
        (lambda data: b"", "neither a PLY nor a PCD"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    path = tmp_path / "a.ply"
    path.write_bytes(change(whole(tmp_path)))
    with pytest.raises(UserError, match=rf"a\.ply cannot be read as point cloud: .*{message}") as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count("cannot be read") == 1


@pytest.mark.parametrize("lines", ["1 2 3\n", "0 1 2 x\n", "0 1 2 3\n"])
def test_damaged_text_is_one_line(tmp_path: Path, lines: str) -> None:
    path = ascii_ply(tmp_path / "a.ply", lines, 2)
    with pytest.raises(UserError, match=r"a\.ply cannot be read as point cloud"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ply does not exist"):
        PointFile(tmp_path / "none.ply")
