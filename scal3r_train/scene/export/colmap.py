"""COLMAP's sparse model: cameras, images and points3D, binary or text.

Poses are cam_from_world with quaternions wxyz; axes (OpenCV) and pixel centres (at half integers) are those of the
scene, and so is the world. Every camera is PINHOLE. Frames share a camera when size and intrinsics are equal to the
last bit, as they are when the cameras were given; predicted ones differ. With `single_camera`, frames share one camera
per image size, with the median of each of fx, fy, cx, cy. Points have error 0 and no tracks: nothing was matched.
Layouts: https://colmap.github.io/format.html. Shapes: S frames, C cameras.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import roma
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.scene.export.images import image_names, put_images
from scal3r_train.scene.export.source import ExportSource
from scal3r_train.scene.ply import colours_of, positions_of

PINHOLE = 1
POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track_length", "<u8")]
)
POINTS_HEADER = "# POINT3D_ID X Y Z R G B ERROR TRACK[] (IMAGE_ID POINT2D_IDX)\n"


@dataclass(frozen=True)
class SharedCameras:
    """C cameras, and which of them each frame has.

    Attributes:
        image_hw: [C, 2].
        intrinsics: [C, 4] fx fy cx cy.
        of_frame: [S] indices.
    """

    image_hw: np.ndarray
    intrinsics: np.ndarray
    of_frame: np.ndarray

    @staticmethod
    def of(image_hw: np.ndarray, intrinsics: np.ndarray, *, single: bool) -> SharedCameras:
        """Group frames with sizes [S, 2] and intrinsics [S, 4] by the rule above; cameras in order of appearance."""
        keys = image_hw if single else np.concatenate([image_hw, intrinsics], axis=1)
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        of_frame, first = rank[group.reshape(-1)], np.sort(first)
        shared = intrinsics[first]
        if single:
            shared = np.stack(
                [np.median(intrinsics[of_frame == camera], axis=0) for camera in range(len(first))]
            )
        return SharedCameras(image_hw[first], shared, of_frame)


def write(source: ExportSource, folder: Path) -> str:
    """Write the model, on request with images, into a folder; return its contents in words."""
    names = image_names(source)
    contents = write_model(source, folder, names)
    put_images(source, names, folder)
    return contents


def write_model(source: ExportSource, folder: Path, names: list[str]) -> str:
    """Write the model of images with these names into a folder; return its contents in words."""
    hw = np.array([frame.image_hw for frame in source.cameras.frames], np.int64)
    matrices = source.cameras.intrinsics.numpy()
    intrinsics = matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    cameras = SharedCameras.of(hw, intrinsics, single=source.options.single_camera)
    poses = _poses_wxyz(source.cameras.world_from_cam)
    if source.options.text:
        _write_cameras_text(folder / "cameras.txt", cameras)
        _write_images_text(folder / "images.txt", poses, cameras, names)
        num_points = _write_points_text(folder / "points3D.txt", source.points(folder))
    else:
        _write_cameras(folder / "cameras.bin", cameras)
        _write_images(folder / "images.bin", poses, cameras, names)
        with (folder / "points3D.bin").open("wb") as file:
            num_points = _write_points(file, source.points(folder))
    return f"{len(names)} images, {len(cameras.intrinsics)} cameras, {num_points} points"


def _poses_wxyz(world_from_cam: Tensor) -> np.ndarray:
    """Return cam_from_world of poses [S, 3, 4] as [S, 7]: quaternion wxyz with w >= 0, translation."""
    rotation = world_from_cam[:, :, :3].mT
    translation = -(rotation @ world_from_cam[:, :, 3:])[:, :, 0]
    wxyz = roma.rotmat_to_unitquat(rotation).roll(1, -1).numpy()
    return np.concatenate([np.where(wxyz[:, :1] < 0, -wxyz, wxyz), translation.numpy()], axis=1)


def _write_cameras(path: Path, cameras: SharedCameras) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(cameras.intrinsics)))
        for number, ((height, width), row) in enumerate(
            zip(cameras.image_hw, cameras.intrinsics, strict=True), 1
        ):
            file.write(struct.pack("<IiQQ4d", number, PINHOLE, width, height, *row))


def _write_images(path: Path, poses: np.ndarray, cameras: SharedCameras, names: list[str]) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(names)))
        rows = zip(poses, cameras.of_frame, names, strict=True)
        for number, (pose, camera, name) in enumerate(rows, 1):
            file.write(struct.pack("<I7dI", number, *pose, camera + 1))
            file.write(name.encode("utf-8") + b"\0" + struct.pack("<Q", 0))


def _write_points(file: BinaryIO, blocks: Iterator[np.ndarray]) -> int:
    num_points = 0
    file.write(struct.pack("<Q", 0))
    for vertices in blocks:
        points = np.zeros(len(vertices), POINT)
        points["id"] = np.arange(num_points + 1, num_points + 1 + len(points))
        points["xyz"], points["rgb"] = positions_of(vertices), colours_of(vertices)
        file.write(points.view(np.uint8).data)
        num_points += len(points)
    file.seek(0)
    file.write(struct.pack("<Q", num_points))
    return num_points


def _write_cameras_text(path: Path, cameras: SharedCameras) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY\n")
        for number, ((height, width), row) in enumerate(
            zip(cameras.image_hw, cameras.intrinsics, strict=True), 1
        ):
            file.write(f"{number} PINHOLE {width} {height} {' '.join(map(repr, row.tolist()))}\n")


def _write_images_text(path: Path, poses: np.ndarray, cameras: SharedCameras, names: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then an empty line of points\n")
        rows = zip(poses, cameras.of_frame, names, strict=True)
        for number, (pose, camera, name) in enumerate(rows, 1):
            if any(character.isspace() for character in name):
                raise UserError(
                    f"image '{name}' has a space, which COLMAP's text files do not allow; leave out --text"
                )
            file.write(f"{number} {' '.join(map(repr, pose.tolist()))} {camera + 1} {name}\n\n")


def _write_points_text(path: Path, blocks: Iterator[np.ndarray]) -> int:
    num_points = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(POINTS_HEADER)
        for vertices in blocks:
            lines = [
                # Nine digits give back every float32.
                f"{number} {x:.9g} {y:.9g} {z:.9g} {red} {green} {blue} 0\n"
                for number, (x, y, z, red, green, blue, _) in enumerate(vertices.tolist(), num_points + 1)
            ]
            file.writelines(lines)
            num_points += len(lines)
    return num_points
