"""COLMAP's sparse models: cameras and images, text or binary, read as a stream; the 2-D points are skipped.

Poses are cam_from_world, OpenCV axes, quaternions wxyz. images.txt has two lines an image, the second may be empty.
Binary files are little endian; where a folder has both, the binary one counts, as in COLMAP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scal3r_data_tools.formats.axes import pose_from_wxyz
from scal3r_train.config import UserError
from scal3r_train.data.colmap_camera import ColmapCamera, model_of_number, read_cameras_text

BYTES_OF_POINT = 24  # x, y: float64, point3D_id: int64
NAME_BLOCK_BYTES = 256


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
    folders = {path.parent for end in ("bin", "txt") for path in source.rglob(f"cameras.{end}")}
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
            yield camera_id, ColmapCamera(name, (height, width), _unpack(file, f"<{num}d"))


def _images_text(path: Path) -> Iterator[ColmapImage]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            words = line.strip().split(maxsplit=9)  # names may hold spaces
            yield _image(words[9], int(words[8]), tuple(float(word) for word in words[1:8]))
            next(lines, "")  # the points


def _images_binary(path: Path) -> Iterator[ColmapImage]:
    with path.open("rb") as file:
        (num_images,) = _unpack(file, "<Q")
        for _ in range(num_images):
            _, *pose, camera_id = _unpack(file, "<I7dI")
            name = _read_name(file)
            (num_points,) = _unpack(file, "<Q")
            file.seek(num_points * BYTES_OF_POINT, 1)
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
