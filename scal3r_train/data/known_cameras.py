"""What the user knows about the cameras: `input.intrinsics`, written into the sequence.

Lenses are then undone on load, as those of an index are. Pixel centres are at half integers, as in COLMAP: (0.5, 0.5)
is the centre of the top-left pixel. Shapes: S frames.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import (
    ColmapCamera,
    Lens,
    family,
    image_lines,
    lens_of,
    merged,
    read_cameras_text,
)
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import folded

FROM_INDEX = "from_index"
NUM_INTRINSICS = 4


def with_cameras(
    record: SequenceRecord, intrinsics: tuple[float, float, float, float] | str
) -> SequenceRecord:
    """Return the sequence with the cameras that the setting names.

    Args:
        record: the sequence.
        intrinsics: fx fy cx cy of the image files, numbers or text; "from_index"; or the path of a cameras.txt, with
            an images.txt beside it when it holds more than one camera.

    Raises:
        UserError: it is none of these, or does not fit the images.
    """
    if intrinsics == FROM_INDEX:
        if record.intrinsics is None:
            raise UserError(
                "input.intrinsics = from_index, but the input has none; give 'fx fy cx cy' or a cameras.txt"
            )
        return record
    if isinstance(intrinsics, str) and Path(intrinsics).is_file():
        return _with_file(record, Path(intrinsics))
    values = _numbers(intrinsics)
    sizes = {(int(height), int(width)) for height, width in record.image_size}
    if len(sizes) > 1:
        raise UserError(
            f"input.intrinsics are of one image size, but the images have {len(sizes)}; give a cameras.txt and an "
            "images.txt"
        )
    fx, fy, cx, cy = values
    ((height, width),) = sizes
    if min(fx, fy) <= 0 or not (0 < cx < width and 0 < cy < height):
        raise UserError(
            f"input.intrinsics fx fy cx cy = {fx:g} {fy:g} {cx:g} {cy:g} do not fit images of {width}x{height} pixels"
        )
    return replace(
        record,
        camera_model="pinhole",
        intrinsics=np.tile(values, (record.num_frames, 1)),
        distortion=None,
        pixel_centre="half",
    )


def _numbers(intrinsics: tuple[float, float, float, float] | str) -> np.ndarray:
    if not isinstance(intrinsics, str):
        return np.array(intrinsics, np.float64)
    try:
        values = np.array([float(word) for word in intrinsics.replace(",", " ").split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != NUM_INTRINSICS or not np.isfinite(values).all():
        raise UserError(
            f"input.intrinsics '{intrinsics}' is neither a file nor 'fx fy cx cy' nor {FROM_INDEX}; give one of these"
        )
    return values


def _with_file(record: SequenceRecord, path: Path) -> SequenceRecord:
    try:
        cameras = dict(read_cameras_text(path))
        of_name = _camera_of_name(path.with_name("images.txt")) if len(cameras) > 1 else {}
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"input.intrinsics {path} cannot be read as COLMAP's cameras.txt: {error}") from None
    if not cameras:
        raise UserError(f"input.intrinsics {path} holds no camera")
    only = next(iter(cameras.values())) if len(cameras) == 1 else None
    lenses = []
    for index, name in enumerate(record.image):
        key = folded(name)
        camera = only or cameras.get(of_name.get(key, of_name.get(PurePosixPath(key).name, -1)))
        if camera is None:
            raise UserError(
                f"input.intrinsics {path} holds {len(cameras)} cameras, and {path.with_name('images.txt')} does not "
                f"say which is that of {name}"
            )
        lenses.append(_scaled(lens_of(camera), camera, record, index, path))
    if len({family(lens) for lens in lenses}) > 1:
        raise UserError(
            f"input.intrinsics {path}: fisheye and other lenses in one sequence are not supported"
        )
    model, rows, distortion = merged(lenses)
    return replace(record, camera_model=model, intrinsics=rows, distortion=distortion, pixel_centre="half")


def _scaled(lens: Lens, camera: ColmapCamera, record: SequenceRecord, index: int, path: Path) -> Lens:
    """Return the lens in pixels of the image file, which may be a smaller or larger copy of the camera's images."""
    height, width = record.image_size[index].tolist()
    if (height, width) == camera.hw:
        return lens
    if abs(camera.hw[1] * height / camera.hw[0] - width) > 1:
        raise UserError(
            f"input.intrinsics {path} is of images of {camera.hw[1]}x{camera.hw[0]} pixels, {record.image[index]} has "
            f"{width}x{height}"
        )
    fx, fy, cx, cy = lens.intrinsics
    x, y = width / camera.hw[1], height / camera.hw[0]
    return Lens(lens.model, (fx * x, fy * y, cx * x, cy * y), lens.coefficients)


def _camera_of_name(path: Path) -> dict[str, int]:
    """Camera of each image of an images.txt, by its name with and without folders; empty when there is no such file."""
    if not path.is_file():
        return {}
    found: dict[str, int] = {}
    for words in image_lines(path):
        found[folded(words[9].replace("\\", "/"))] = int(words[8])
    return {PurePosixPath(name).name: camera for name, camera in found.items()} | found
