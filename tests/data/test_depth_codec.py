"""Depth files decode to metres with 0 for invalid."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.depth_codec import CODECS, encode_uint16, read_depth


@pytest.mark.parametrize(
    ("codec", "count", "metres"),
    [
        ("uint16_mm", 1234, 1.234),
        ("uint16_cm", 1234, 12.34),
        ("uint16_5000ths", 5000, 1.0),
        ("uint16_256ths", 256, 1.0),
    ],
)
def test_units_of_counts(tmp_path: Path, codec: str, count: int, metres: float) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.array([[count, 0], [65535, 1]], np.uint16)).save(path)
    depth = read_depth(path, codec)
    assert depth.dtype == np.float32
    assert depth[0, 0] == pytest.approx(metres, rel=1e-6)
    assert depth[0, 1] == 0
    assert depth[1, 0] == 0  # saturated
    assert depth[1, 1] > 0


@pytest.mark.parametrize("codec", sorted(name for name, rule in CODECS.items() if rule.container == "png16"))
def test_round_trip_within_half_a_unit(tmp_path: Path, codec: str) -> None:
    unit = CODECS[codec].unit
    depth = np.random.default_rng(0).uniform(2 * unit, 65533 * unit, (5, 7))
    depth[0, 0] = 0
    path = tmp_path / "depth.png"
    Image.fromarray(encode_uint16(depth, codec)).save(path)
    again = read_depth(path, codec)
    assert np.abs(again - depth).max() <= 0.5 * unit * (1 + 1e-4) + 1e-5 * depth.max()
    assert again[0, 0] == 0


def test_depth_that_does_not_fit_is_invalid_and_not_wrapped() -> None:
    counts = encode_uint16(np.array([[66.0, 65.5, -1.0, 0.0002]]), "uint16_mm")
    assert counts.tolist() == [[0, 65500, 0, 0]]


def test_float16_bits(tmp_path: Path) -> None:
    values = np.array([[1.5, 0.0, np.inf], [np.nan, -2.0, 0.25]], np.float16)
    path = tmp_path / "depth.png"
    Image.fromarray(values.view(np.uint16)).save(path)
    assert read_depth(path, "float16_bits").tolist() == [[1.5, 0, 0], [0, 0, 0.25]]


def test_npy(tmp_path: Path) -> None:
    path = tmp_path / "depth.npy"
    np.save(path, np.array([[1.5, np.nan], [-1.0, 7.0]]))
    assert read_depth(path, "npy").tolist() == [[1.5, 0], [0, 7.0]]


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.npy"
    np.save(path, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(UserError, match=r"depth\.npy cannot be read as npy"):
        read_depth(path, "npy")


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        read_depth(tmp_path / "gone.png", "uint16_mm")
    path = tmp_path / "eight_bit.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    with pytest.raises(UserError, match=r"eight_bit\.png cannot be read as uint16_mm: .*uint8"):
        read_depth(path, "uint16_mm")
    with pytest.raises(UserError, match="codec 'feet' .* unknown"):
        read_depth(path, "feet")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"eight_bit\.png cannot be read"):
        read_depth(path, "uint16_mm")
