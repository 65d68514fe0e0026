"""Taskonomy: views of scanned buildings, each turned to a point of the surface.

Layouts, all of the same files point_P_view_V_domain_DOMAIN.{png, json}: DOMAIN/taskonomy/BUILDING/ (as omnitools
downloads), BUILDING/DOMAIN/ (as the samples have it), and BUILDING_DOMAIN/DOMAIN/ (archives unpacked side by side).
Domains that are read: point_info (older: points, with the ending fixatedpose.json), rgb, depth_zbuffer, mask_valid.
SRC is the folder above; a record is a building, its views ordered by point and view number, not by time.

A point_info file holds, beside other things: camera_location (x y z, metres), camera_rotation_final (Blender's Euler
angles XYZ in radians, or camera_rotation_final_quaternion, w x y z), both world_from_cam with Blender's axes (camera
OpenGL: x right, y up, z backward; world z up); field_of_view_rads of the square image; point_location, the point
in the image's centre. Names and meaning of these fields are taken from public readers of the set, not from its
documentation: the fields are options and `scal3r data check` decides. The camera's principal point is the image's
centre, pixel centres are at half integers. Depth: uint16, 1/512 m, z (depth_zbuffer; depth_euclidean is the length of
the ray: option), 65535 invalid. mask_valid is 0 where the scan has holes (windows, mirrors). `covisible` of a view are
the views whose point is nearest to its own and that look from the same side; walls between them are not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.files import present
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import (
    OPENGL_FROM_OPENCV,
    inverted,
    opencv_world_from_cam,
    pose_from_wxyz,
)
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

INFO_NAME = re.compile(r"point_(\d+)_view_(\d+)_domain_(?:point_info|fixatedpose)\.json")
INFO_FOLDERS = ("point_info", "points")
CODECS = {"depth_zbuffer": "uint16_512ths", "depth_euclidean": "uint16_512ths_ray"}
NUM_COVISIBLE, NUM_CANDIDATES = 32, 96


class Options(StrictModel):
    """How the set's files are read."""

    depth_domain: Literal["depth_zbuffer", "depth_euclidean"] = Field(
        "depth_zbuffer", description="which depth files: z coordinate, or length of the ray"
    )
    rotation_field: Literal["camera_rotation_final", "camera_rotation_final_quaternion"] = Field(
        "camera_rotation_final",
        description="field with the rotation: Euler angles XYZ, or a quaternion w x y z",
    )
    location_field: str = Field("camera_location", description="field with the camera's position")
    field_of_view_field: str = Field("field_of_view_rads", description="field with the image's field of view")
    use_mask: bool = Field(default=True, description="leave out depth where mask_valid is 0")
    images: Literal["rgb", "rgb_large"] = Field("rgb", description="which images: 512 x 512 or 1024 x 1024")


@dataclass(frozen=True)
class _Building:
    """One folder of point_info files.

    Attributes:
        infos: it, relative to SRC, POSIX.
        name: of the building.
    """

    infos: str
    name: str

    def sibling(self, domain: str) -> str:
        """Folder of another domain's files."""
        parts = [
            re.sub("^(.*_)?(point_info|points)$", rf"\g<1>{domain}", part) for part in self.infos.split("/")
        ]
        return "/".join(parts)


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all buildings, by name."""
    source = source.resolve()
    for building in sorted(_buildings(source), key=lambda building: building.name):
        record = _sequence(source, building, options)
        if record is not None:
            yield record


def _buildings(source: Path) -> Iterator[_Building]:
    """Folders of point_info files; image folders, with their millions of files, are not looked through."""
    for domain in INFO_FOLDERS:
        for folder in [*source.glob(domain), *source.glob(f"*/{domain}")]:
            name = re.sub("_(point_info|points)$", "", folder.parent.name)
            yield _Building(folder.relative_to(source).as_posix(), name)
        for folder in [*source.glob(f"{domain}/*/"), *source.glob(f"{domain}/taskonomy/*/")]:
            if folder.is_dir() and folder.name != "taskonomy":
                yield _Building(folder.relative_to(source).as_posix(), folder.name)


@names_file("source")
def _sequence(source: Path, building: _Building, options: Options) -> SequenceRecord | None:
    names = [path.name for path in (source / building.infos).glob("point_*.json")]
    views = sorted(
        (int(match[1]), int(match[2]), match[0]) for name in names if (match := INFO_NAME.fullmatch(name))
    )
    images, depths, masks = ([_file(building, d, *v[:2]) for v in views] for d in _domains(options))
    there = present(source, [*images, *depths, *masks])
    masks = [m if m in there else m.replace("mask_valid.png", "depth_zbuffer.png") for m in masks]
    there |= present(source, masks)
    rows: dict[int, np.ndarray] = {}
    damaged: list[str] = []
    problem: UserError | None = None
    for i, view in enumerate(views):
        if images[i] in there:
            try:
                row = _view(source / building.infos / view[2], options)
            except UserError as error:  # one damaged file is left out, all files are another layout
                problem = error
                row = np.array([np.nan])
            if np.isfinite(row).all():
                rows[i] = row
            else:
                damaged.append(images[i])
    if not rows and problem is not None:
        raise problem
    leave_out(NO_IMAGE, [image for image in images if image not in there], source)
    leave_out(NO_CAMERA, damaged, source)
    if not rows:
        leave_out(NO_FRAMES, [building.name], source, SEQUENCE)
        return None
    good, table = list(rows), np.stack(list(rows.values()))
    size = read_image_size(source / images[good[0]])  # every image of a domain has the same size
    focal = size[1] / 2 / np.tan(table[:, 12] / 2)
    depth = tuple(depths[i] if depths[i] in there else "" for i in good)
    mask = tuple(
        masks[i] if options.use_mask and depths[i] in there and masks[i] in there else "" for i in good
    )
    return SequenceRecord(
        dataset="taskonomy",
        sequence_id=building.name,
        root=source,
        image=tuple(images[i] for i in good),
        image_size=np.tile(size, (len(good), 1)),
        timestamp=np.arange(len(good), dtype=np.float64),
        depth=depth if any(depth) else (),
        depth_codec=CODECS[options.depth_domain] if any(depth) else "",
        mask=mask if any(mask) else (),
        mask_rule="below 128" if any(mask) else "",
        camera_model="pinhole",
        intrinsics=np.stack([focal, focal, *(np.full(len(good), side / 2) for side in size[::-1])], 1),
        cam_from_world=table[:, :12].reshape(-1, 3, 4),
        covisible=_covisible(table),
        num_missing=len(views) - len(good),
        is_ordered=False,
        is_metric=True,
        licence="Omnidata research terms, non-commercial",
        source="Taskonomy",
    )


def _domains(options: Options) -> tuple[str, str, str]:
    return options.images, options.depth_domain, "mask_valid"


def _file(building: _Building, domain: str, point: int, view: int) -> str:
    name = domain.removesuffix("_large")
    return f"{building.sibling(domain)}/point_{point}_view_{view}_domain_{name}.png"


@names_file("path")
def _view(path: Path, options: Options) -> np.ndarray:
    """cam_from_world 3x4 row by row, field of view in radians, point in the image's centre: [16]."""
    info = read_json(path)
    if isinstance(info, list) and info:  # some files hold a list of one
        info = info[0]
    rotation, location = (
        _numbers(info, key, path) for key in (options.rotation_field, options.location_field)
    )
    if options.rotation_field == "camera_rotation_final":
        turned = Rotation.from_euler("xyz", rotation).as_matrix() if np.isfinite(rotation).all() else np.nan
        pose = np.column_stack([np.broadcast_to(turned, (3, 3)), location])
    else:
        pose = pose_from_wxyz(rotation, location)
    cam_from_world = inverted(opencv_world_from_cam(pose, OPENGL_FROM_OPENCV))
    angle = _numbers(info, options.field_of_view_field, path)
    if not 0 < float(angle[0]) < math.pi:
        raise UserError(
            f"{path}: {options.field_of_view_field} is {angle[0]}, not an angle in radians below pi"
        )
    point = _numbers(info, "point_location", path) if "point_location" in info else location
    return np.concatenate([cam_from_world.ravel(), angle[:1], point])


def _numbers(info: Any, key: str, path: Path) -> np.ndarray:
    value = entry(info, key, path)
    try:
        return np.atleast_1d(np.array(value, np.float64))
    except (TypeError, ValueError):
        raise UserError(f"{path}: '{key}' is not numbers; is this the dataset's own layout?") from None


def _covisible(table: np.ndarray) -> np.ndarray | None:
    """For each view those of the nearest points that look from the same side [S, N], -1 where there are no more."""
    num = len(table)
    if num < 2:
        return None
    poses, points = table[:, :12].reshape(-1, 3, 4), table[:, 13:]
    _, near = cKDTree(points).query(points, k=min(NUM_CANDIDATES, num))
    forward = poses[:, 2, :3]
    covisible = np.full((num, min(NUM_COVISIBLE, num - 1)), -1, np.int64)
    for i in range(num):
        others = [j for j in np.atleast_1d(near[i]) if j != i and forward[i] @ forward[j] > 0]
        found = others[: covisible.shape[1]]
        covisible[i, : len(found)] = found
    return covisible
