"""WildRGB-D: objects filmed all around with a phone that measures depth.

Layout: CATEGORY/scenes/SCENE/{rgb,depth,masks}/%05d.png, metadata (JSON without suffix), cam_poses.txt; SRC may be the
whole, a category or a scene. cam_poses.txt: frame number and 4x4 world_from_cam row by row, OpenCV axes, metres (from
RGB-D SLAM). metadata: w, h and K, column by column. Depth is uint16 millimetres of the whole scene, background
included; masks mark the object and are not used. Pixel centres are taken to be at integers; the set does not say.
Frames are numbered in order; no times, 30 Hz is assumed. Frames without image count as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_FRAMES, NO_IMAGE, NO_POSE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

POSE_FILE = "cam_poses.txt"
FRAMES_PER_SECOND = 30.0


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all scenes below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: POSE_FILE in names, 4):
        record = _scene(folder, source)
        if record is not None:
            yield record


@names_file("folder")
def _scene(folder: Path, source: Path) -> SequenceRecord | None:
    """One scene, None when none of its frames is there."""
    table = read_table(folder / POSE_FILE, 17, is_finite=False)
    poses = {int(row[0]): row[1:].reshape(4, 4)[:3] for row in table if np.isfinite(row).all()}
    images = files_by_number(folder / "rgb", r"(\d+)\.(?:png|jpg)")
    depths = files_by_number(folder / "depth", r"(\d+)\.png") if (folder / "depth").is_dir() else {}
    numbers = sorted(set(poses) & set(images))
    leave_out(NO_IMAGE, [f"rgb/{int(row[0]):05d}.png" for row in table if int(row[0]) not in images], folder)
    leave_out(NO_POSE, [f"rgb/{images[n]}" for n in sorted(set(images) - set(numbers))], folder)
    if not numbers:
        leave_out(NO_FRAMES, [relative_name(folder, source)], source, SEQUENCE)
        return None
    num = len(numbers)
    return SequenceRecord(
        dataset="wildrgbd",
        sequence_id=relative_name(folder, source),
        root=folder,
        image=tuple(f"rgb/{images[number]}" for number in numbers),
        # one phone films a whole scene
        image_size=np.tile(read_image_size(folder / "rgb" / images[numbers[0]]), (num, 1)),
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(f"depth/{depths[number]}" if number in depths else "" for number in numbers)
        if depths
        else (),
        depth_codec="uint16_mm" if depths else "",
        camera_model="pinhole",
        intrinsics=np.tile(_intrinsics(folder / "metadata"), (num, 1)),
        cam_from_world=inverted(np.stack([poses[number] for number in numbers])),
        pixel_centre="integer",
        num_missing=len(table) - num,
        is_metric=True,
        licence="MIT",
        source="WildRGB-D",
    )


def _intrinsics(path: Path) -> np.ndarray:
    """Fx fy cx cy [4] of a metadata file."""
    values = entry(read_json(path), "K", path)
    try:
        k = np.array(values, np.float64).reshape(3, 3).T
    except (TypeError, ValueError):
        raise UserError(f"{path}: K must be 9 numbers; download it again") from None
    return k[[0, 1, 0, 1], [0, 1, 2, 2]]
