"""Depth files decode to metres with 0 for invalid and -1 for sky."""

import math
import re
import tempfile
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import OpenEXR
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.io.depth_codec import CODECS, decode_depth, encode_uint16, read_depth
from scal3r_train.data.io.frame_io import read_frame_depth
from scal3r_train.data.sequence import SequenceRecord

FLOAT16 = {"float16_bits", "exr_cm"}
INF = math.inf
NO_SKY = math.nan  # nothing is at or above it
# What the sets say of their files: metres a stored unit, from where numbers say nothing, from where they are sky.
RULES = {
    "uint16_mm": (1e-3, 65535, NO_SKY),
    "uint16_cm": (1e-2, 65535, NO_SKY),
    "uint16_cm_sky": (1e-2, 65535, 65535),
    "uint16_5000ths": (1 / 5000, 65535, NO_SKY),
    "uint16_256ths": (1 / 256, 65535, NO_SKY),
    "uint16_512ths": (1 / 512, 65535, NO_SKY),
    "uint16_512ths_ray": (1 / 512, 65535, NO_SKY),
    "uint16_6553.5ths": (1 / 6553.5, 65535, NO_SKY),
    "uint16_mm_ray": (1e-3, 65535, NO_SKY),
    "float16_bits": (1, INF, NO_SKY),
    "npy": (1, INF, NO_SKY),
    "npy_sky_1000": (1, INF, 1000),
    "float32_png_sky_1000": (1, INF, 1000),
    "pfm": (1, INF, NO_SKY),
    "exr": (1, INF, NO_SKY),
    "exr_sky_inf": (1, INF, INF),
    "exr_cm": (1e-2, 65504, NO_SKY),
    "exr_cm_ray": (1e-2, 65504, NO_SKY),
    "exr_cm_float32": (1e-2, INF, NO_SKY),
    "exr_cm_float32_ray": (1e-2, INF, NO_SKY),
    "hdf5_depth": (1, INF, NO_SKY),
    "hdf5_ray": (1, INF, NO_SKY),
    "raw_float32": (1, INF, NO_SKY),
}


def write_png(stored: np.ndarray, codec: str) -> bytes:
    file = BytesIO()
    Image.fromarray(stored.view(np.uint16)).save(file, "PNG")
    return file.getvalue()


def write_float32_png(stored: np.ndarray, codec: str) -> bytes:
    """As TartanAir V2: OpenCV writes the four bytes of a number as blue, green, red and alpha."""
    blue, green, red, alpha = np.moveaxis(stored.astype("<f4")[..., None].view(np.uint8), -1, 0)
    file = BytesIO()
    Image.fromarray(np.stack([red, green, blue, alpha], -1), "RGBA").save(file, "PNG")
    return file.getvalue()


def write_npy(stored: np.ndarray, codec: str) -> bytes:
    file = BytesIO()
    np.save(file, stored)
    return file.getvalue()


def write_pfm(stored: np.ndarray, codec: str) -> bytes:
    height, width = stored.shape
    return f"Pf\n{width} {height}\n-1.0\n".encode() + stored[::-1].astype("<f4").tobytes()


def write_exr(stored: np.ndarray, codec: str) -> bytes:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "depth.exr"
        OpenEXR.File(header, {"Y": np.ascontiguousarray(stored)}).write(str(path))
        return path.read_bytes()


def write_hdf5(stored: np.ndarray, codec: str) -> bytes:
    memory = BytesIO()
    with h5py.File(memory, "w") as file:
        file["depth" if codec == "hdf5_depth" else "dataset"] = stored
    return memory.getvalue()


def write_raw(stored: np.ndarray, codec: str) -> bytes:
    return stored.astype("<f4").tobytes()


WRITERS = {
    "png16": write_png,
    "float16_png": write_png,
    "inverse_png": write_png,
    "float32_png": write_float32_png,
    "npy": write_npy,
    "pfm": write_pfm,
    "exr": write_exr,
    "hdf5": write_hdf5,
    "raw_float32": write_raw,
}


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


@st.composite
def stored_arrays(draw: st.DrawFn, codec: str) -> np.ndarray:
    """Numbers as a file of this codec may hold them, special ones among them."""
    rule = CODECS[codec]
    hw = draw(st.tuples(st.integers(2, 7), st.integers(2, 7)))
    special = [rule.invalid_from, rule.sky_from]
    if rule.container == "png16":
        numbers = st.integers(0, 65535) | st.sampled_from([0, 65534, 65535])
        return draw(arrays(np.uint16, hw, elements=numbers))
    extra = [0.0, -1.5, np.inf, -np.inf, np.nan, *(float(value) for value in special if value is not None)]
    width = 16 if codec in FLOAT16 else 32
    largest = 64992 if width == 16 else 1e6
    numbers = st.floats(2**-10, largest, width=width) | st.sampled_from(extra)
    return draw(arrays(f"f{width // 8}", hw, elements=numbers))


# OmniWorld's inverse depth is tested with SpatialBench, which brings it.
@pytest.mark.parametrize("codec", sorted(set(CODECS) - {"uint16_inverse_sky"}))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_codec_round_trips(codec: str, data: st.DataObject) -> None:
    """Stored numbers times the unit, so metres to half a unit; nothing, not finite, saturated: 0; sky: -1."""
    stored = data.draw(stored_arrays(codec))
    unit, invalid_from, sky_from = RULES[codec]
    depth = decode_depth(WRITERS[CODECS[codec].container](stored, codec), codec, "depth", stored.shape)
    assert depth.dtype == np.float32
    assert depth.shape == stored.shape
    for number, metres in zip(stored.astype(np.float64).ravel(), depth.ravel(), strict=True):
        if number >= sky_from:
            assert metres == -1
        elif not np.isfinite(number) or number <= 0 or number >= invalid_from:
            assert metres == 0
        else:
            assert metres == pytest.approx(number * unit, rel=1e-6)


@pytest.mark.parametrize("codec", sorted(name for name, rule in CODECS.items() if rule.is_ray_length))
@settings(max_examples=10, deadline=None)
@given(
    focal=st.floats(3, 30),
    centre=st.tuples(st.floats(0, 8), st.floats(0, 6)),
    z=arrays(np.float64, (6, 8), elements=st.floats(0.5, 20)),
)
def test_ray_lengths_become_z(
    codec: str,
    focal: float,
    centre: tuple[float, float],
    z: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A plane of known z, written as lengths of rays through the pixels' centres."""
    columns, rows = np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5)
    length = z * np.sqrt(((columns - centre[0]) / focal) ** 2 + ((rows - centre[1]) / (0.9 * focal)) ** 2 + 1)
    unit, invalid_from, _ = RULES[codec]
    is_png = CODECS[codec].container == "png16"
    stored = (
        np.minimum(np.rint(length / unit), 65535).astype(np.uint16)
        if is_png
        else (length / unit).astype(np.float32)
    )
    name = "depth.bin"
    folder = tmp_path_factory.getbasetemp()
    (folder / name).write_bytes(WRITERS[CODECS[codec].container](stored, codec))
    record = SequenceRecord(
        dataset="test",
        sequence_id="test",
        root=folder,
        image=("image.png",),
        image_size=np.array([[6, 8]]),
        timestamp=np.zeros(1),
        depth=(name,),
        depth_codec=codec,
        camera_model="pinhole",
        intrinsics=np.array([[focal, 0.9 * focal, *centre]]),
    )
    got = read_frame_depth(record, 0)
    assert got is not None
    valid = stored < invalid_from
    assert (got[~valid] == 0).all()
    assert np.abs(got - z)[valid].max(initial=0) <= (unit if is_png else 0) + 1e-5 * z.max()


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_files_are_named_in_one_line(codec: str, share: float) -> None:
    """A download that broke off is never taken for a depth map."""
    container = CODECS[codec].container
    dtype = np.uint16 if container == "png16" else np.float16 if codec in FLOAT16 else np.float32
    stored = np.random.default_rng(0).uniform(1, 60000, (40, 50)).astype(dtype)
    whole = WRITERS[container](stored, codec)
    with pytest.raises(
        UserError, match=rf"depth file far/depth\.bin cannot be read as {re.escape(codec)}: ."
    ) as error:
        decode_depth(whole[: int(share * len(whole))], codec, "far/depth.bin", stored.shape)
    assert "\n" not in str(error.value)
