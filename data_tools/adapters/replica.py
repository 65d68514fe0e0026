"""Replica as rendered for iMAP and NICE-SLAM: eight rooms, 2000 frames each, along smooth paths.

Layout: SCENE/{results/{frame%06d.jpg, depth%06d.png}, traj.txt}, and above them cam_params.json with camera.{w, h, fx,
fy, cx, cy, scale}; SRC may be the whole or one scene. traj.txt: 4x4 world_from_cam row by row, one line a frame,
OpenCV axes, metres. Depth is z, uint16, 1/6553.5 m (1/scale of cam_params.json). Pixel centres are at integers: without
cam_params.json, f = 600 and cx cy = 599.5 339.5 at 1200 x 680. No times; 30 Hz is assumed.
Renderings of the original meshes along other paths are another layout (nerfstudio, unified).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import StrictModel
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_FRAMES, NO_IMAGE, NO_POSE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 30.0
INTRINSICS = (600.0, 600.0, 599.5, 339.5)
COUNTS_PER_METRE = 6553.5
Positive = Annotated[float, Field(gt=0)]


class Options(StrictModel):
    """The camera, where it is another one."""

    intrinsics: tuple[Positive, Positive, Positive, Positive] | None = Field(
        None,
        description="The camera's fx fy cx cy, pixel centres at integers; null: cam_params.json, else the "
        "usual ones [pixels]",
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: {"traj.txt", "results"} <= names, 3):
        record = _scene(folder, source, options)
        if record is not None:
            yield record


@names_file("folder")
def _scene(folder: Path, source: Path, options: Options) -> SequenceRecord | None:
    """One scene, None when none of its frames is there."""
    table = read_table(folder / "traj.txt", 16, is_finite=False)
    images = files_by_number(folder / "results", r"frame(\d+)\.(?:jpg|png)")
    depths = files_by_number(folder / "results", r"depth(\d+)\.png")
    finite = np.isfinite(table).all(1)
    numbers = [number for number in sorted(images) if number < len(table) and finite[number]]
    leave_out(NO_IMAGE, [f"results/frame{n:06d}.jpg" for n in range(len(table)) if n not in images], folder)
    leave_out(NO_POSE, [f"results/{images[n]}" for n in sorted(set(images) - set(numbers))], folder)
    if not numbers:
        leave_out(NO_FRAMES, [relative_name(folder, source)], source, SEQUENCE)
        return None
    intrinsics, counts_per_metre = _camera(folder)
    num = len(numbers)
    return SequenceRecord(
        dataset="replica",
        sequence_id=relative_name(folder, source),
        root=folder,
        image=tuple(f"results/{images[number]}" for number in numbers),
        # every image of a scene is rendered with one camera
        image_size=np.tile(read_image_size(folder / "results" / images[numbers[0]]), (num, 1)),
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(f"results/{depths[n]}" if n in depths else "" for n in numbers) if depths else (),
        depth_codec="uint16_6553.5ths" if depths else "",
        depth_scale=COUNTS_PER_METRE / counts_per_metre,
        camera_model="pinhole",
        intrinsics=np.tile(options.intrinsics or intrinsics, (num, 1)),
        cam_from_world=inverted(table[numbers].reshape(-1, 4, 4)),
        pixel_centre="integer",
        num_missing=len(table) - num,
        is_metric=True,
        is_synthetic=True,
        licence="Replica Dataset Research Terms",
        source="Replica (iMAP and NICE-SLAM renderings)",
    )


def _camera(folder: Path) -> tuple[tuple[float, ...], float]:
    """Fx fy cx cy and depth counts per metre, from cam_params.json beside or above the scene, else the usual."""
    for path in (folder / "cam_params.json", folder.parent / "cam_params.json"):
        if path.is_file():
            camera = entry(read_json(path), "camera", path)
            return (
                tuple(float(entry(camera, key, path)) for key in ("fx", "fy", "cx", "cy")),
                float(camera.get("scale", COUNTS_PER_METRE)),
            )
    return INTRINSICS, COUNTS_PER_METRE
