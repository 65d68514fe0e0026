"""Decoders of depth files: bytes of one file -> float32 depth in metres (or scene units), 0 = invalid, -1 = sky.

An index names the codec of a sequence, so that depth stays where it is in its own format. A codec says how numbers
are stored, the unit, which numbers mean "nothing measured" or "sky", and whether the number is the z coordinate or the
length of the pixel's ray (which frame_io.py turns into z). Zero, negative and not finite numbers are always invalid.
Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.declared_size import MAX_DEPTH_PIXELS, check_exr, check_picture, check_pixels
from scal3r_train.data.io.hdf5_file import read_hdf5
from scal3r_train.data.io.numpy_files import read_npy
from scal3r_train.text_file import read_file_bytes

MAX_DEPTH_BYTES = 8 * MAX_DEPTH_PIXELS
SKY = np.float32(-1)
SATURATED = 65535
PNG_END = b"IEND"


@dataclass(frozen=True)
class DepthCodec:
    """How a depth file is read.

    Attributes:
        container: how numbers are stored, a key of CONTAINERS.
        unit: metres (or scene units) of one stored unit.
        is_ray_length: distance from the camera's centre instead of the z coordinate.
        invalid_from: stored numbers at or above it say nothing; None where there are none.
        sky_from: stored numbers at or above it are sky, infinity included; decided before invalid_from.
        key: name of the array or channel inside the file, where the container has names.
    """

    container: str
    unit: float = 1.0
    is_ray_length: bool = False
    invalid_from: float | None = None
    sky_from: float | None = None
    key: str = ""


def _counts(unit: float, **others: float | bool) -> DepthCodec:
    return DepthCodec("png16", unit, **({"invalid_from": SATURATED} | others))  # type: ignore[arg-type]


CODECS: dict[str, DepthCodec] = {
    "uint16_mm": _counts(1e-3),  # 7-Scenes, WildRGB-D, rendered ScanNet++
    "uint16_cm": _counts(1e-2),  # towns, game_loop, Mapillary
    "uint16_cm_sky": _counts(1e-2, sky_from=SATURATED),  # Virtual KITTI 2
    "uint16_5000ths": _counts(1 / 5000),  # TUM RGB-D
    "uint16_256ths": _counts(1 / 256),  # KITTI
    "uint16_512ths": _counts(1 / 512),  # Taskonomy
    "uint16_512ths_ray": _counts(1 / 512, is_ray_length=True),  # Taskonomy, depth_euclidean
    "uint16_6553.5ths": _counts(1 / 6553.5),  # Replica as iMAP and NICE-SLAM render it
    "uint16_mm_ray": _counts(1e-3, is_ray_length=True),  # SceneNet RGB-D, Aria Synthetic Environments
    "uint16_inverse_sky": DepthCodec("inverse_png", sky_from=float("inf")),  # OmniWorld
    "float16_bits": DepthCodec("float16_png"),  # Co3Dv2
    "npy": DepthCodec("npy"),  # CUT3R's processed sets
    "npy_sky_1000": DepthCodec("npy", sky_from=1000.0),  # TartanAir
    "float32_png_sky_1000": DepthCodec("float32_png", sky_from=1000.0),  # TartanAir V2
    "pfm": DepthCodec("pfm"),  # BlendedMVS
    "exr": DepthCodec("exr"),  # unified layouts, Waymo as exported
    "exr_sky_inf": DepthCodec("exr", sky_from=float("inf")),  # MVS-Synth
    # MatrixCity: float16, overflow at 65504; float32; the same, should they be lengths of rays
    "exr_cm": DepthCodec("exr", 1e-2, invalid_from=65504.0),
    "exr_cm_float32": DepthCodec("exr", 1e-2),
    "exr_cm_ray": DepthCodec("exr", 1e-2, is_ray_length=True, invalid_from=65504.0),
    "exr_cm_float32_ray": DepthCodec("exr", 1e-2, is_ray_length=True),
    "hdf5_depth": DepthCodec("hdf5", key="depth"),  # MegaDepth
    "hdf5_ray": DepthCodec("hdf5", is_ray_length=True, key="dataset"),  # Hypersim
    "raw_float32": DepthCodec("raw_float32"),  # ETH3D
}


def read_depth(path: Path, codec: str, image_hw: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one depth file; see `decode_depth`. Raises UserError also when the file is missing."""
    try:
        data = read_file_bytes(path)
    except FileNotFoundError:
        raise UserError(f"depth file {path} does not exist; check the index or its root") from None
    except OSError as error:
        raise UserError(f"depth file {path} cannot be read: {error.strerror}") from None
    return decode_depth(data, codec, path, image_hw)


def decode_depth(
    data: bytes, codec: str, name: str | Path, image_hw: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode the bytes of one depth file into [H, W] float32: z or ray length as the codec says, 0 invalid, -1 sky.

    Args:
        data: content of the file.
        codec: a key of CODECS.
        name: of the file, for messages.
        image_hw: size of the image; needed by containers that do not store one.

    Raises:
        UserError: an unknown codec, or a file that is not what the codec expects.
    """
    if codec not in CODECS:
        raise UserError(f"depth codec '{codec}' of {name} is unknown; known are {', '.join(sorted(CODECS))}")
    rule = CODECS[codec]
    try:
        stored = CONTAINERS[rule.container](data, rule.key, image_hw)
    except ImportError as error:
        raise UserError(
            f"depth codec '{codec}' needs {error.name}: pip install 'scal3r_train[data]'"
        ) from None
    except Exception as error:  # whatever a parser of damaged bytes may raise; the message names the file
        raise UserError(f"depth file {name} cannot be read as {codec}: {error}") from None
    return _in_units(stored, rule)


def encode_uint16(depth: np.ndarray, codec: str) -> np.ndarray:
    """z-depth [H, W] in metres -> counts uint16; beyond the codec's range and invalid depths become 0."""
    counts = np.rint(np.asarray(depth, np.float64) / CODECS[codec].unit)
    return np.where((counts > 0) & (counts < SATURATED), counts, 0).astype(np.uint16)


def _in_units(stored: np.ndarray, rule: DepthCodec) -> np.ndarray:
    depth = np.array(stored, np.float32, order="C")  # a copy in any case, and laid out for OpenCV
    if stored.dtype.kind != "u":  # counts are never negative nor infinite
        depth[~(np.isfinite(depth) & (depth > 0))] = 0
    if rule.invalid_from is not None:
        zero_beyond(depth, float(np.nextafter(np.float32(rule.invalid_from), np.float32(0))))
    depth *= np.float32(rule.unit)
    if rule.sky_from is not None:
        depth[stored >= rule.sky_from] = SKY
    return depth


def zero_beyond(depth: np.ndarray, limit: float) -> None:
    """Set what exceeds a limit to 0, in place: a third of the time of indexing by a mask."""
    cv2.threshold(depth, limit, 0, cv2.THRESH_TOZERO_INV, dst=depth)


def decode_png16(data: bytes) -> np.ndarray:
    """Counts [H, W] uint16 of a 16-bit grey PNG. Raises ValueError for anything else."""
    counts = _png(data)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise ValueError(f"an image of {counts.dtype} and shape {counts.shape}, not 16-bit grey")
    return counts


def _png(data: bytes) -> np.ndarray:
    """Numbers of a PNG as they are stored. Raises ValueError for what is none, or not whole."""
    if PNG_END not in data[-12:]:  # OpenCV would fill up the rest
        raise ValueError("the file is truncated or no PNG")
    check_picture(data, MAX_DEPTH_PIXELS)
    numbers = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if numbers is None:
        raise ValueError("no PNG, or damaged")
    return numbers


def _float16_png(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    return decode_png16(data).view(np.float16)


def _inverse_png(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    """Depth whose inverse is stored, x = counts / 65535: 250 x / (1000 - 999 x), as OmniWorld's readers decode it.

    Near counts (x below 0.0015) say nothing, those above 65500 are sky (infinite).
    """
    counts = decode_png16(data)
    stored = counts.astype(np.float32) / np.float32(SATURATED)
    depth = stored * 250 / (1000 - 999 * stored)
    depth[stored < 0.0015] = 0
    depth[counts > 65500] = np.inf
    return depth


def _float32_png(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    """Little-endian float32 whose four bytes are the channels B, G, R, A of an 8-bit PNG."""
    channels = _png(data)
    if channels.dtype != np.uint8 or channels.ndim != 3 or channels.shape[2] != 4:
        raise ValueError(
            f"an image of {channels.dtype} and shape {channels.shape}, not 8-bit with four channels"
        )
    return np.ascontiguousarray(channels).view("<f4")[..., 0]


def _npy(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    return _two_dimensional(read_npy(data, MAX_DEPTH_BYTES))


def _pfm(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    """Portable float map, one channel: rows from the bottom up; a negative scale says little endian."""
    kind, size, scale, body = data.split(b"\n", 3)
    if kind.strip() != b"Pf":
        raise ValueError("not a grey PFM file (it must begin with Pf)")
    width, height = (int(word) for word in size.split())
    check_pixels((height, width), MAX_DEPTH_PIXELS)
    numbers = np.frombuffer(body, "<f4" if float(scale) < 0 else ">f4")
    if len(numbers) != width * height:
        raise ValueError(f"{len(numbers)} numbers instead of {width} x {height}; is the file truncated?")
    return numbers.reshape(height, width)[::-1]


def _exr(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    import OpenEXR  # noqa: PLC0415  optional

    check_exr(data)
    channels = OpenEXR.File(BytesIO(data), separate_channels=True).channels()
    name = next((name for name in (key, "Y", "Z", "R", "V") if name in channels), sorted(channels)[0])
    return _two_dimensional(channels[name].pixels)


def _hdf5(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    return _two_dimensional(read_hdf5(data, key, MAX_DEPTH_BYTES))


def _raw_float32(data: bytes, key: str, image_hw: tuple[int, int] | None) -> np.ndarray:
    assert image_hw is not None, "the container stores no size"
    numbers = np.frombuffer(data, "<f4")
    if len(numbers) != image_hw[0] * image_hw[1]:
        raise ValueError(f"{len(numbers)} numbers, its image has {image_hw[1]} x {image_hw[0]} pixels")
    return numbers.reshape(image_hw)


def _two_dimensional(depth: np.ndarray) -> np.ndarray:
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[-1]):
        depth = depth.squeeze(0 if depth.shape[0] == 1 else -1)
    if depth.ndim != 2 or depth.dtype.kind not in "biuf":
        raise ValueError(f"an array of {depth.dtype} and shape {depth.shape}, not numbers [H, W]")
    check_pixels((depth.shape[0], depth.shape[1]), MAX_DEPTH_PIXELS)
    return depth


CONTAINERS: dict[str, Callable[[bytes, str, tuple[int, int] | None], np.ndarray]] = {
    "png16": lambda data, key, image_hw: decode_png16(data),
    "float16_png": _float16_png,
    "inverse_png": _inverse_png,
    "float32_png": _float32_png,
    "npy": _npy,
    "pfm": _pfm,
    "exr": _exr,
    "hdf5": _hdf5,
    "raw_float32": _raw_float32,
}
