"""COLMAP's camera models in terms of ours (`camera_model.py`).

| COLMAP | ours |
| --- | --- |
| SIMPLE_PINHOLE, PINHOLE | pinhole |
| SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV | opencv |
| SIMPLE_FISHEYE, FISHEYE, SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE, OPENCV_FISHEYE | opencv_fisheye |
| THIN_PRISM_FISHEYE | thin_prism_fisheye |
| RAD_TAN_THIN_PRISM_FISHEYE | fisheye624 |

Others are refused by name. Pixel centres are at half integers. A sequence has one camera model: cameras whose models
can be written as one are (`pinhole` as `opencv` with zeros, `opencv_fisheye` as `thin_prism_fisheye` with zeros).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError

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
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            check_model(words[1], len(words) - 4, path)
            hw = int(words[3]), int(words[2])
            yield int(words[0]), ColmapCamera(words[1], hw, tuple(float(word) for word in words[4:]))


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
