"""PLY files are what other programs expect."""

import struct
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.scene.ply import read_ply, write_ply

SIZES = {"float": ("<f", 4), "uchar": ("<B", 1)}


def independent_ply(path: Path) -> list[dict[str, float]]:
    """A reader that knows the format only, one value at a time."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").split("\n")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    num_points = int(next(line for line in lines if line.startswith("element vertex")).split()[-1])
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    rows, offset = [], 0
    for _ in range(num_points):
        row = {}
        for kind, name in properties:
            code, size = SIZES[kind]
            row[name] = struct.unpack_from(code, body, offset)[0]
            offset += size
        rows.append(row)
    assert offset == len(body)
    return rows


def test_an_independent_reader_finds_the_points(tmp_path: Path) -> None:
    positions = np.random.default_rng(0).normal(size=(7, 3))
    colours = np.arange(21, dtype=np.uint8).reshape(7, 3)
    write_ply(tmp_path / "p.ply", positions, colours, np.arange(7) / 3)
    rows = independent_ply(tmp_path / "p.ply")
    assert [[row[name] for name in ("red", "green", "blue")] for row in rows] == colours.tolist()
    assert [row["confidence"] for row in rows] == (np.arange(7) / 3).astype(np.float32).tolist()
    read = np.array([[row[name] for name in "xyz"] for row in rows])
    np.testing.assert_array_equal(read, positions.astype(np.float32))


@pytest.mark.parametrize("num_points", [0, 5])
def test_our_reader_reads_what_was_written(tmp_path: Path, num_points: int) -> None:
    positions = np.random.default_rng(0).normal(size=(num_points, 3)).astype(np.float32)
    colours = np.full((num_points, 3), 9, np.uint8)
    confidence = np.arange(num_points, dtype=np.float32)
    write_ply(tmp_path / "p.ply", positions, colours, confidence)
    read_positions, read_colours, read_confidence = read_ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(read_positions, positions)
    np.testing.assert_array_equal(read_colours, colours)
    np.testing.assert_array_equal(read_confidence, confidence)


@pytest.mark.parametrize("damage", [b"", b"ply\n", b"ply\nend_header\nabc"])
def test_another_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "p.ply").write_bytes(damage)
    with pytest.raises(UserError, match=r"p\.ply is damaged"):
        read_ply(tmp_path / "p.ply")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    write_ply(tmp_path / "p.ply", np.zeros((4, 3)), np.zeros((4, 3), np.uint8), np.zeros(4))
    content = (tmp_path / "p.ply").read_bytes()
    (tmp_path / "p.ply").write_bytes(content[:-15])
    with pytest.raises(UserError, match="damaged"):
        read_ply(tmp_path / "p.ply")
    with pytest.raises(UserError, match="cannot be read"):
        read_ply(tmp_path / "absent.ply")
