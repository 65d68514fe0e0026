"""MatrixCity: drives and flights through a city rendered in a game engine, with depth.

Layout: {small_city, big_city}/{aerial, street}/{train, train_dense, test}/BLOCK/{%04d.png, transforms.json,
transforms_origin.json}; images may also lie in BLOCK/rgb, BLOCK/images or BLOCK/BLOCK. Depth: a tree beside it,
{small_city, big_city}_depth[_float32]/.../BLOCK_depth/%04d.exr, or BLOCK/depth. A frame has `frame_index` or
file_path, and `rot_mat` or `transform_matrix`, world_from_cam with OpenGL axes (the set's README). Two units occur and
show in the matrix (README): in blocks the rotation is divided by 100 and positions are metres; in
pose/BLOCK/transforms_{train, test}.json (option `file`) the rotation is a rotation and positions are in units of 100
m. We turn both into metres; the last row is ignored. transforms_origin.json also has the frames that look out of the
map or straight down. Intrinsics: fl_x, fl_y, cx, cy, w, h, or camera_angle_x (radians) with the principal point at the
centre; pixel centres at half integers. Depth: centimetres, float16 with 65504 where it overflows, or float32 (aerial),
all channels alike; z, as the set's own script unprojects it: option `is_ray_length` for those who find otherwise.
Beyond `max_depth` lies the sky. Frames are ordered by number; at the end of a row of flight, and between the
directions of a street, the view jumps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.adapters import nerfstudio
from scal3r_data_tools.formats.files import relative_name
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord

METRES = {"m": 1.0, "100m": 100.0}
PLACES = ("", "rgb", "images")
TREES = ("_depth_float32", "_depth")
SMALL_ROTATION = 0.1  # scale of a rotation below which it has been divided by 100


class Options(StrictModel):
    """What is read, and what can be doubted."""

    file: Literal[
        "transforms.json", "transforms_origin.json", "transforms_train.json", "transforms_test.json"
    ] = Field("transforms.json", description="which frames; transforms_origin.json: all that were rendered")
    unit: Literal["auto", "m", "100m"] = Field(
        "auto", description="unit of the positions; auto: by the rotation's scale"
    )
    is_ray_length: bool = Field(False, description="whether depth is the length of the ray instead of z")
    max_depth: float = Field(2000.0, ge=0, description="depth beyond is dropped; 0: none is [m]")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all blocks in or below the folder, ordered by path."""
    source = source.resolve()
    for path in found_below(source, lambda name: name == options.file):
        folder = path.parent
        name = relative_name(folder, source)
        yield _block(path, name, options)


@names_file("path")
def _block(path: Path, name: str, options: Options) -> SequenceRecord:
    document = read_json(path)
    frames = []
    for frame in entry(document, "frames", path):
        image = _image(path.parent, frame, path)
        pose = _pose(frame, options.unit, path)
        frames.append(
            {
                "file_path": image,
                "transform_matrix": pose.tolist(),
                "depth_file_path": _depth(path.parent, image),
            }
        )
    wide = any("_depth_float32" in (frame["depth_file_path"] or "") for frame in frames)
    codec = "exr_cm" + ("_float32" if wide else "") + ("_ray" if options.is_ray_length else "")
    return nerfstudio.record_of(
        document | {"frames": frames, "camera_model": "PINHOLE"},
        path,
        dataset="matrix_city",
        sequence_id=name,
        same_size=True,
        split="test" if "test" in f"{name}/{options.file}" else "train",
        depth_codec=codec if any(frame["depth_file_path"] for frame in frames) else "",
        depth_scale=1.0,
        max_depth=options.max_depth,
        is_metric=True,
        is_synthetic=True,
        licence="CC BY-NC 4.0",
        source="MatrixCity",
    )


def _image(folder: Path, frame: dict[str, Any], path: Path) -> str:
    """Path of a frame's image below the block's folder; of the first place where there is one."""
    name = frame.get("file_path") or f"{int(entry(frame, 'frame_index', path)):04d}.png"
    places = [str(Path(place) / name) for place in (*PLACES, folder.name)]
    return next((place for place in places if (folder / place).is_file()), name)


def _pose(frame: dict[str, Any], unit: str, path: Path) -> np.ndarray:
    """world_from_cam [4, 4] in metres; not finite where the file's matrix is none."""
    matrix = np.array(frame.get("rot_mat") or entry(frame, "transform_matrix", path), np.float64)[:3]
    scale = np.cbrt(abs(np.linalg.det(matrix[:, :3])))
    if not scale > 0:
        return np.full((4, 4), np.nan)
    metres = METRES["m" if scale < SMALL_ROTATION else "100m"] if unit == "auto" else METRES[unit]
    pose = np.eye(4)
    pose[:3] = np.column_stack([matrix[:, :3] / scale, matrix[:, 3] * metres])
    return pose


def _depth(folder: Path, image: str) -> str | None:
    """Path of the depth of an image, as the block's folder sees it, None without."""
    file = Path(folder, image).resolve()
    block = file.parent.parent if file.parent.name in (*PLACES, file.parent.parent.name) else file.parent
    name = f"{file.stem}.exr"
    candidates = [block / "depth" / name]
    for number, part in enumerate(block.parts):
        if part.endswith("city"):
            for tree in TREES:
                place = Path(*block.parts[:number], part + tree, *block.parts[number + 1 : -1])
                candidates += [place / f"{block.name}_depth" / name, place / block.name / name]
    return next((os.path.relpath(found, folder) for found in candidates if found.is_file()), None)
