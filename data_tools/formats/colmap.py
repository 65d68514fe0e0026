"""COLMAP's sparse models, text or binary, and records made from them.

Models are read as a stream; the 2-D points are skipped. Poses are cam_from_world, OpenCV axes, quaternions wxyz.
images.txt has two lines an image, the second may be empty. Binary files are little endian; where a folder has both,
the binary one counts, as in COLMAP. Records hold the images that are there, their cameras scaled to the files, split
by kind of lens.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scal3r_data_tools.formats.files import Names, note_turned
from scal3r_data_tools.formats.poses import pose_from_wxyz
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import (
    ColmapCamera,
    Lens,
    checked_camera,
    family,
    image_lines,
    lens_of,
    merged,
    model_of_number,
    read_cameras_text,
)
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.image_codec import DamagedImageError, ImageHeader, read_image_header
from scal3r_train.data.io.left_out import DAMAGED, NO_IMAGE, NO_POSE, OTHER_SHAPE, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord

BYTES_OF_POINT = 24  # x, y: float64, point3D_id: int64
NAME_BLOCK_BYTES = 256
CAMERA_FILES = ("cameras.bin", "cameras.txt")
MAX_STRETCH = 0.02  # of a resized image's aspect ratio by rounding


@dataclass(frozen=True)
class ColmapImage:
    """One image of a model.

    Attributes:
        name: path relative to the folder of images.
        camera_id: key of its camera.
        cam_from_world: [3, 4] float64; not finite when the file's numbers are no pose.
    """

    name: str
    camera_id: int
    cam_from_world: np.ndarray


def is_model(folder: Path) -> bool:
    """Whether a folder holds cameras and images of one kind."""
    return any(
        (folder / f"cameras{end}").is_file() and (folder / f"images{end}").is_file()
        for end in (".bin", ".txt")
    )


def find_models(source: Path) -> list[Path]:
    """Folders in or below `source` that hold a model, ordered by path."""
    folders = {path.parent for path in found_below(source, lambda name: name in CAMERA_FILES)}
    return sorted(folder for folder in folders if is_model(folder))


def read_cameras(folder: Path) -> dict[int, ColmapCamera]:
    """Cameras of a model by their id. Raises UserError when the file is missing, damaged or of an unknown model."""
    return dict(_cameras(_file(folder, "cameras")))


def read_images(folder: Path) -> Iterator[ColmapImage]:
    """Images of a model in the order of the file. Raises UserError when the file is missing or damaged."""
    path = _file(folder, "images")
    try:
        yield from _images_binary(path) if path.suffix == ".bin" else _images_text(path)
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise _damaged(path, error) from None


def _file(folder: Path, stem: str) -> Path:
    end = ".bin" if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file() else ".txt"
    path = folder / f"{stem}{end}"
    if not path.is_file():
        raise UserError(f"{path} does not exist; is this a COLMAP model?")
    return path


def _damaged(path: Path, error: Exception) -> UserError:
    return error if isinstance(error, UserError) else UserError(f"{path} cannot be read as COLMAP's: {error}")


def _cameras(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    try:
        yield from _cameras_binary(path) if path.suffix == ".bin" else read_cameras_text(path)
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise _damaged(path, error) from None


def _cameras_binary(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    with path.open("rb") as file:
        (num_cameras,) = _unpack(file, "<Q")
        for _ in range(num_cameras):
            camera_id, number, width, height = _unpack(file, "<IiQQ")
            name, num = model_of_number(number, path)
            yield (
                camera_id,
                checked_camera(ColmapCamera(name, (height, width), _unpack(file, f"<{num}d")), path),
            )


def _images_text(path: Path) -> Iterator[ColmapImage]:
    for words in image_lines(path):
        yield _image(words[9], int(words[8]), tuple(float(word) for word in words[1:8]))


def _images_binary(path: Path) -> Iterator[ColmapImage]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (num_images,) = _unpack(file, "<Q")
        for _ in range(num_images):
            _, *pose, camera_id = _unpack(file, "<I7dI")
            name = _read_name(file)
            (num_points,) = _unpack(file, "<Q")
            file.seek(min(num_points * BYTES_OF_POINT, size), 1)
            yield _image(name, camera_id, tuple(pose))


def _image(name: str, camera_id: int, numbers: tuple[float, ...]) -> ColmapImage:
    values = np.array(numbers)
    pose = np.full((3, 4), np.nan)
    if np.isfinite(values).all() and np.linalg.norm(values[:4]) > 0:
        pose = pose_from_wxyz(values[:4], values[4:])
    return ColmapImage(name, camera_id, pose)


def _unpack(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_name(file: BinaryIO) -> str:
    """Text up to a zero byte."""
    name = b""
    while block := file.read(NAME_BLOCK_BYTES):
        head, zero, rest = block.partition(b"\0")
        name += head
        if zero:
            file.seek(-len(rest), 1)
            return name.decode("utf-8")
    raise ValueError("the file is truncated")


@dataclass(frozen=True)
class View:
    """One image of a model that can be used.

    Attributes:
        name: as the model calls it.
        path: of the file, relative to the root of the record.
        lens: of the image as it is in the file, which may be smaller than the one that was calibrated.
        hw: size of the file.
        cam_from_world: [3, 4].
    """

    name: str
    path: str
    lens: Lens
    hw: tuple[int, int]
    cam_from_world: np.ndarray


@names_file("model")
def views_of(
    model: Path, root: Path, path_of: Callable[[str], str], *, size_by_camera: bool = False
) -> tuple[list[View], int]:
    """Return the views of a model by name, and how many are listed but cannot be used.

    Those are left out: without file, without a finite pose, or turned in the file against their camera.

    Args:
        model: folder of the model.
        root: of the record.
        path_of: from the name of an image in the model to its path below the root.
        size_by_camera: one image a camera tells the size of all of them.

    Raises:
        UserError: the model is damaged.
    """
    cameras = read_cameras(model)
    headers: dict[int, ImageHeader] = {}
    there = Names(root)
    views, num_listed = [], 0
    absent, unposed, turned, cropped, damaged = [], [], [], [], []
    for image in read_images(model):
        num_listed += 1
        path = there.find(path_of(image.name))
        if not path:
            absent.append(path_of(image.name))
            continue
        if not np.isfinite(image.cam_from_world).all():
            unposed.append(path)
            continue
        if image.camera_id not in cameras:
            raise UserError(f"{model}: image {image.name} has camera {image.camera_id}, which is not listed")
        camera = cameras[image.camera_id]
        if min(camera.hw) <= 0:
            raise UserError(
                f"{model}: camera {image.camera_id} is {camera.hw[1]}x{camera.hw[0]} pixels large"
            )
        header = headers.get(image.camera_id) if size_by_camera else None
        try:
            header = headers[image.camera_id] = read_image_header(root / path) if header is None else header
        except DamagedImageError:
            damaged.append(path)
            continue
        hw = header.hw
        if header.is_turned:
            turned.append(path)
            continue
        scale = hw[1] / camera.hw[1], hw[0] / camera.hw[0]
        if abs(scale[0] / scale[1] - 1) > MAX_STRETCH:
            cropped.append(path)
            continue
        lens = lens_of(camera)
        fx, fy, cx, cy = lens.intrinsics
        intrinsics = fx * scale[0], fy * scale[1], cx * scale[0], cy * scale[1]
        views.append(View(image.name, path, replace(lens, intrinsics=intrinsics), hw, image.cam_from_world))
    for cause, names in ((NO_IMAGE, absent), (NO_POSE, unposed), (OTHER_SHAPE, cropped), (DAMAGED, damaged)):
        leave_out(cause, names, root)
    note_turned(root, turned)
    views.sort(key=lambda view: natural_key(view.name))
    return views, num_listed - len(views)


def split_by_lens(views: Sequence[View]) -> Iterator[tuple[str, list[View]]]:
    """Views whose cameras fit into one record, with a suffix for its name that is "" when all of them do."""
    kinds = sorted({family(view.lens) for view in views})
    for kind in kinds:
        yield "" if len(kinds) == 1 else f"/{kind}", [view for view in views if family(view.lens) == kind]


def record_of(views: Sequence[View], **fields: Any) -> SequenceRecord:
    """Record of views of one kind of lens; `fields` are those that do not follow from the views."""
    model, intrinsics, distortion = merged([view.lens for view in views])
    derived: dict[str, Any] = {"timestamp": np.arange(len(views), dtype=np.float64)}
    return SequenceRecord(
        image=tuple(view.path for view in views),
        image_size=np.array([view.hw for view in views], np.int64),
        camera_model=model,
        intrinsics=intrinsics,
        distortion=distortion,
        cam_from_world=np.stack([view.cam_from_world for view in views]),
        **(derived | fields),
    )
