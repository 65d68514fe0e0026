"""A drive round a race circuit, recorded in a game.

Layout: rgb/%06d.*, depth/%06d.png (uint16 centimetres, 0 = sky or too far), poses.txt (3x4 world_from_cam row by row,
OpenCV axes, metres), calib.txt (a line of names, then fx fy cx cy w h, pixel centres at integers), times.txt (seconds).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import files_by_number
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import cam_from_world, read_table
from scal3r_train.config import UserError
from scal3r_train.data.sequence import SequenceRecord


@names_file("source")
def index(source: Path) -> Iterator[SequenceRecord]:
    """The one sequence of the folder."""
    poses = read_table(source / "poses.txt", 12).reshape(-1, 3, 4)
    num = len(poses)
    camera = read_table(source / "calib.txt", 6, num_rows=1, skip_rows=1)[0]
    images = files_by_number(source / "rgb", r"(\d+)\.(png|jpg|jpeg)")
    depths = files_by_number(source / "depth", r"(\d+)\.png")
    if not num or sorted(images) != list(range(num)):
        raise UserError(
            f"{source}/rgb has {len(images)} frames but poses.txt has {num}; they must be 0..{num - 1}"
        )
    yield SequenceRecord(
        dataset="game_loop",
        sequence_id=source.resolve().name,
        root=source.resolve(),
        image=tuple(f"rgb/{images[i]}" for i in range(num)),
        depth=tuple(f"depth/{depths[i]}" if i in depths else "" for i in range(num)),
        depth_codec="uint16_cm",
        camera_model="pinhole",
        intrinsics=np.tile(camera[:4], (num, 1)),
        cam_from_world=cam_from_world(poses),
        timestamp=read_table(source / "times.txt", 1, num_rows=num)[:, 0],
        image_size=np.tile(camera[[5, 4]].astype(np.int64), (num, 1)),
        pixel_centre="integer",
        is_metric=True,
        is_synthetic=True,
        licence="Free Art License, GPL-2+",
        source="game_loop",
    )
