"""Lens distortion of the camera models that an index may name, and COLMAP's models in terms of them.

| camera_model | coefficients | source | COLMAP's models |
| --- | --- | --- | --- |
| pinhole | none | | SIMPLE_PINHOLE, PINHOLE |
| opencv | k1 k2 p1 p2 k3 k4 k5 k6 | Brown-Conrady, rational radial part (OpenCV) | SIMPLE_RADIAL .. FULL_OPENCV |
| opencv_fisheye | k1 k2 k3 k4 | Kannala-Brandt (OpenCV's cv2.fisheye) | all whose name ends in FISHEYE but one |
| thin_prism_fisheye | k1 k2 p1 p2 k3 k4 sx1 sy1 | COLMAP's model (ETH3D) | THIN_PRISM_FISHEYE |
| fisheye624 | k0..k5 p0 p1 s0..s3 | Project Aria's FisheyeRadTanThinPrism | RAD_TAN_THIN_PRISM_FISHEYE |

Of `opencv` trailing coefficients may be left out. All are followed by fx fy cx cy. `_MODELS` lists COLMAP's models
one by one; others are refused by name. Pixel centres are at half integers. A sequence has one camera model: cameras
whose models can be written as one are (`pinhole` as `opencv` with zeros, `opencv_fisheye` as `thin_prism_fisheye`
with zeros).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.text_file import is_number, read_text_file

MIN_RADIUS = 1e-9
MAX_SIDE = 1 << 20  # of images that are calibrated [pixels]


def distort(xy: np.ndarray, model: str, coefficients: np.ndarray) -> np.ndarray:
    """Move points [..., 2] = (x / z, y / z) of the pinhole image plane to where the lens puts them, same shape."""
    if model == "pinhole":
        return xy
    num, function = MODELS[model]
    padded = np.zeros(num)
    padded[: len(coefficients)] = coefficients
    return np.stack(function(xy[..., 0], xy[..., 1], padded), -1)


def _opencv(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, k5, k6 = c
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _opencv_fisheye(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (c[0] + t2 * (c[1] + t2 * (c[2] + t2 * c[3])))
    return x * radial, y * radial


def _thin_prism_fisheye(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, sx1, sy1 = c
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (t2 + 2 * x * x) + sx1 * t2,
        y * radial + 2 * p2 * x * y + p1 * (t2 + 2 * y * y) + sy1 * t2,
    )


def _fisheye624(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = np.ones_like(t2)
    for place, k in enumerate(c[:6]):
        radial = radial + k * t2 ** (place + 1)
    x, y = x * radial, y * radial
    p0, p1, s0, s1, s2, s3 = c[6:]
    r2 = x * x + y * y
    along = 2 * (x * p0 + y * p1)
    return x + along * x + r2 * (p0 + s0 + s1 * r2), y + along * y + r2 * (p1 + s2 + s3 * r2)


def _equidistant(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points whose distance from the centre is the angle of the ray instead of its tangent."""
    radius = np.hypot(x, y)
    scale = np.where(radius > MIN_RADIUS, np.arctan(radius) / np.maximum(radius, MIN_RADIUS), 1.0)
    return x * scale, y * scale


Distortion = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
MODELS: dict[str, tuple[int, Distortion]] = {
    "opencv": (8, _opencv),
    "opencv_fisheye": (4, _opencv_fisheye),
    "thin_prism_fisheye": (8, _thin_prism_fisheye),
    "fisheye624": (12, _fisheye624),
}
CAMERA_MODELS = ("pinhole", *MODELS)


Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ColmapCamera:
    """One line of cameras.txt.

    Attributes:
        model: COLMAP's name of it.
        hw: height and width in pixels.
        parameters: as COLMAP orders them.
    """

    model: str
    hw: tuple[int, int]
    parameters: Numbers


@dataclass(frozen=True)
class Lens:
    """The same camera in our terms.

    Attributes:
        model: one of camera_model.CAMERA_MODELS.
        intrinsics: fx fy cx cy, pixel centres at half integers.
        coefficients: of the distortion.
    """

    model: str
    intrinsics: tuple[float, float, float, float]
    coefficients: Numbers


def _one_focal(p: Numbers) -> tuple[float, float, float, float]:
    return p[0], p[0], p[1], p[2]


def _two_focals(p: Numbers) -> tuple[float, float, float, float]:
    return p[0], p[1], p[2], p[3]


_Intrinsics = Callable[[Numbers], tuple[float, float, float, float]]
# COLMAP's number of the model: its name, number of parameters, our model, where intrinsics and coefficients are
_MODELS: dict[int, tuple[str, int, str, _Intrinsics, Callable[[Numbers], Numbers]]] = {
    0: ("SIMPLE_PINHOLE", 3, "pinhole", _one_focal, lambda p: ()),
    1: ("PINHOLE", 4, "pinhole", _two_focals, lambda p: ()),
    2: ("SIMPLE_RADIAL", 4, "opencv", _one_focal, lambda p: (p[3],)),
    3: ("RADIAL", 5, "opencv", _one_focal, lambda p: p[3:5]),
    4: ("OPENCV", 8, "opencv", _two_focals, lambda p: p[4:8]),
    5: ("OPENCV_FISHEYE", 8, "opencv_fisheye", _two_focals, lambda p: p[4:8]),
    6: ("FULL_OPENCV", 12, "opencv", _two_focals, lambda p: p[4:12]),
    8: ("SIMPLE_RADIAL_FISHEYE", 4, "opencv_fisheye", _one_focal, lambda p: (p[3],)),
    9: ("RADIAL_FISHEYE", 5, "opencv_fisheye", _one_focal, lambda p: p[3:5]),
    10: ("THIN_PRISM_FISHEYE", 12, "thin_prism_fisheye", _two_focals, lambda p: p[4:12]),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16, "fisheye624", _two_focals, lambda p: p[4:16]),
    14: ("SIMPLE_FISHEYE", 3, "opencv_fisheye", _one_focal, lambda p: ()),
    15: ("FISHEYE", 4, "opencv_fisheye", _two_focals, lambda p: ()),
}
_NUMBERS = {name: number for number, (name, *_) in _MODELS.items()}
_GENERAL = {"pinhole": "opencv", "opencv_fisheye": "thin_prism_fisheye"}  # the model that includes another


def model_of_number(number: int, path: Path) -> tuple[str, int]:
    """Name and number of parameters of a model in a binary file. Raises UserError when it is not supported."""
    if number not in _MODELS:
        raise UserError(
            f"{path}: COLMAP camera model number {number} is not supported; undistort the images first"
        )
    name, num, *_ = _MODELS[number]
    return name, num


def check_model(name: str, num: int, path: Path) -> None:
    """Raise UserError unless the model is supported and has `num` parameters."""
    if name not in _NUMBERS:
        known = ", ".join(_NUMBERS)
        raise UserError(
            f"{path}: camera model {name} is not supported, only {known}; undistort the images first"
        )
    if num != _MODELS[_NUMBERS[name]][1]:
        raise UserError(f"{path}: a camera {name} with {num} parameters; is the file damaged?")


def read_cameras_text(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    """Cameras of a cameras.txt with their ids, in the order of the file.

    Raises UserError for an unknown model, OSError, ValueError or IndexError for what is no such file.
    """
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            check_model(words[1], len(words) - 4, path)
            hw = int(words[3]), int(words[2])
            camera = ColmapCamera(words[1], hw, tuple(float(word) for word in words[4:]))
            yield int(words[0]), checked_camera(camera, path)


def checked_camera(camera: ColmapCamera, path: Path) -> ColmapCamera:
    """Return a camera whose numbers are possible: finite, sides and focal lengths above 0. Raises UserError."""
    lens = lens_of(camera)
    numbers = (*lens.intrinsics, *lens.coefficients)
    if (
        not all(map(math.isfinite, numbers))
        or min(*camera.hw, *lens.intrinsics[:2]) <= 0
        or max(camera.hw) > MAX_SIDE
    ):
        height, width = camera.hw
        shown = " ".join(f"{number:.6g}" for number in camera.parameters)
        raise UserError(f"{path}: {camera.model} {width} {height} {shown} is no camera; is the file damaged?")
    return camera


def image_lines(path: Path) -> Iterator[list[str]]:
    """Ten words of every image of an images.txt, the last its name, which may hold blanks; lines of points are skipped.

    An image has two lines, the second empty where there are no points. Files written by hand often leave it out.

    Raises OSError, or ValueError quoting the line, for what is no such file.
    """
    after_image = False
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        words = line.split(maxsplit=9)
        if (words and words[0].startswith("#")) or (not words and not after_image):
            continue
        if after_image and _is_points(line):
            after_image = False
            continue
        if len(words) != 10 or not (_is_integer(words[0]) and _is_integer(words[8])):
            raise ValueError(
                f"line {number}, '{line.strip()[:60]}', is no image: id, qw qx qy qz, tx ty tz, camera, name"
            )
        after_image = True
        yield [*words[:9], words[9].strip()]


def _is_points(line: str) -> bool:
    """Whether a line is empty or holds x, y, number of the point again and again."""
    words = line.split()
    return len(words) % 3 == 0 and all(map(_is_integer, words[2::3])) and all(map(is_number, words))


def _is_integer(word: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", word) is not None


def lens_of(camera: ColmapCamera) -> Lens:
    """Return a camera in our terms."""
    _, _, model, intrinsics, coefficients = _MODELS[_NUMBERS[camera.model]]
    lens = coefficients(camera.parameters)
    if model == "opencv" and not any(lens):
        model, lens = "pinhole", ()
    return Lens(model, intrinsics(camera.parameters), lens)


def family(lens: Lens) -> str:
    """Name of the cameras that fit into one sequence with this one: the most general model of its kind."""
    return _GENERAL.get(lens.model, lens.model)


def merged(lenses: Sequence[Lens]) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Cameras of one family as fields of a record: camera_model, intrinsics [S, 4], distortion [S, D] or None."""
    models = {lens.model for lens in lenses}
    assert len({family(lens) for lens in lenses}) == 1, f"{models} cannot be written as one"
    model = models.pop() if len(models) == 1 else family(lenses[0])
    intrinsics = np.array([lens.intrinsics for lens in lenses])
    if model == "pinhole":
        return model, intrinsics, None
    coefficients = [_of_model(lens, model) for lens in lenses]
    width = max(1, *map(len, coefficients), 1)
    return model, intrinsics, np.array([(*row, *[0.0] * (width - len(row))) for row in coefficients])


def _of_model(lens: Lens, model: str) -> Numbers:
    if model == "thin_prism_fisheye" and lens.model == "opencv_fisheye":
        k1, k2, k3, k4 = (*lens.coefficients, *[0.0] * (4 - len(lens.coefficients)))
        return k1, k2, 0.0, 0.0, k3, k4, 0.0, 0.0
    return lens.coefficients
