"""MVS-Synth: videos of a game (GTA V).

Layout: GTAV_{540,720,1080}/%04d/{images/%04d.png, depths/%04d.exr, poses/%04d.json}; SRC may be the whole or one
sequence. A pose file holds f_x f_y c_x c_y (pixels) and extrinsic, a 4x4 cam_from_world whose world is mirrored: its
rotation has determinant -1. Cameras have OpenCV axes. We mirror the world's y, that is, diag(1, -1, 1, 1) multiplies
world_from_cam from the left; which axis makes no difference to the cameras' positions relative to one another. Depth is
z, infinity = sky. One metre is taken to be 10 units, of both depth and positions (`metres_per_unit` = 0.1, as
MapAnything does; the set does not say). Depth beyond 1000 units and above the 98th percentile of its frame is not used,
as in CUT3R. Pixel centres are taken to be at half integers (c_x, c_y are the image's middle). No times; 30 Hz is
assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.json_files import read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 30.0
MAX_DEPTH_UNITS = 1000.0
MAX_DEPTH_PERCENTILE = 98.0
MIRROR = np.diag([1.0, -1.0, 1.0])
KEYS = ("f_x", "f_y", "c_x", "c_y")


class Options(StrictModel):
    """The unit."""

    metres_per_unit: float = Field(
        0.1, gt=0, description="What depths and positions are multiplied by [m/unit]"
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: {"images", "poses"} <= names, 3):
        record = _sequence(folder, source, options.metres_per_unit)
        if record is not None:
            yield record


@names_file("folder")
def _sequence(folder: Path, source: Path, scale: float) -> SequenceRecord | None:
    """One sequence, None when none of its frames is there."""
    images = files_by_number(folder / "images", r"(\d+)\.(?:png|jpg)")
    pose_files = files_by_number(folder / "poses", r"(\d+)\.json")
    depths = files_by_number(folder / "depths", r"(\d+)\.exr") if (folder / "depths").is_dir() else {}
    cameras = {
        number: _camera(folder / "poses" / name) for number, name in pose_files.items() if number in images
    }
    numbers = [number for number in sorted(cameras) if np.isfinite(cameras[number]).all()]
    leave_out(NO_IMAGE, [f"images/{Path(pose_files[n]).stem}" for n in pose_files if n not in images], folder)
    damaged = [n for n in sorted(cameras) if not np.isfinite(cameras[n]).all()]
    unposed = [n for n in sorted(images) if n not in pose_files]
    leave_out(NO_CAMERA, [f"images/{images[n]}" for n in [*damaged, *unposed]], folder)
    if not numbers:
        leave_out(NO_FRAMES, [relative_name(folder, source)], source, SEQUENCE)
        return None
    table = np.stack([cameras[number] for number in numbers])
    poses = table[:, 4:].reshape(-1, 3, 4) * [1, 1, 1, scale]
    poses[:, :, :3] = poses[:, :, :3] @ MIRROR
    num = len(numbers)
    return SequenceRecord(
        dataset="mvs_synth",
        sequence_id=relative_name(folder, source),
        root=folder,
        image=tuple(f"images/{images[number]}" for number in numbers),
        # one size in a whole download
        image_size=np.tile(read_image_size(folder / "images" / images[numbers[0]]), (num, 1)),
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(f"depths/{depths[n]}" if n in depths else "" for n in numbers) if depths else (),
        depth_codec="exr_sky_inf" if depths else "",
        depth_scale=scale,
        camera_model="pinhole",
        intrinsics=table[:, :4],
        cam_from_world=poses,
        num_missing=len(pose_files) - num,
        is_metric=True,
        is_synthetic=True,
        is_dynamic=True,
        max_depth=MAX_DEPTH_UNITS * scale,
        max_depth_percentile=MAX_DEPTH_PERCENTILE,
        licence="research only, no commercial use (game content)",
        source="MVS-Synth",
    )


def _camera(path: Path) -> np.ndarray:
    """Fx fy cx cy and the first three rows of the extrinsic [16]; NaN when the file is damaged.

    Raises UserError when it is whole but holds something else.
    """
    try:
        document: Any = read_json(path)
    except UserError:
        return np.full(16, np.nan)
    try:
        pose = np.array(document["extrinsic"], np.float64).reshape(4, 4)[:3]
        return np.array([*(float(document[key]) for key in KEYS), *pose.ravel()])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} has no 4x4 'extrinsic' and numbers {', '.join(KEYS)}; is this the dataset's own layout?"
        ) from None
