"""Procedural towns as `scal3r data synth` writes them.

Layout: <sequence_id>/{rgb,depth}/%06d.png, cam_from_world.txt (3x4 row by row, OpenCV axes, metres), intrinsics.txt
(fx fy cx cy width height, pixel centres at half integers), times.txt (seconds), blackouts.txt (1: the frame shows
nothing; not read here, see scal3r_train/data/synthetic/settings.py); one line a frame, `#` comments.
Depth is uint16 centimetres, 0 = sky or too far.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import StrictModel
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord

POSE_FILE, CAMERA_FILE, TIME_FILE = "cam_from_world.txt", "intrinsics.txt", "times.txt"
DEPTH_CODEC = "uint16_cm"


class Options(StrictModel):
    """What one unit of length in the index is."""

    camera_height: float | None = Field(
        None,
        gt=0,
        description="the index's unit is chosen for each town such that its camera is this high above the ground; "
        "null: metres [scene units]",
    )


@names_file("source")
def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences below the folder, or of the folder itself."""
    for folder in sorted({path.parent for path in found_below(source, lambda name: name == POSE_FILE)}):
        poses = read_table(folder / POSE_FILE, 12).reshape(-1, 3, 4)
        camera = read_table(folder / CAMERA_FILE, 6, num_rows=len(poses))
        unit = 1.0
        if options.camera_height is not None:  # the ground is z = 0
            centres = -np.einsum("sji,sj->si", poses[:, :, :3], poses[:, :, 3])
            unit = float(centres[:, 2].mean()) / options.camera_height
        poses[:, :, 3] /= unit
        yield SequenceRecord(
            dataset="towns",
            sequence_id=folder.name,
            root=folder,
            image=tuple(f"rgb/{i:06d}.png" for i in range(len(poses))),
            depth=tuple(f"depth/{i:06d}.png" for i in range(len(poses))),
            depth_codec=DEPTH_CODEC,
            depth_scale=1 / unit,
            camera_model="pinhole",
            intrinsics=camera[:, :4],
            cam_from_world=poses,
            timestamp=read_table(folder / TIME_FILE, 1, num_rows=len(poses))[:, 0],
            image_size=camera[:, [5, 4]].astype(np.int64),
            is_metric=options.camera_height is None,
            is_synthetic=True,
            licence="CC0-1.0",
            source="scal3r data synth",
        )
