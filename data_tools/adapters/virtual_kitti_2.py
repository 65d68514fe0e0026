"""Virtual KITTI 2: five KITTI drives rebuilt in a game engine, each in ten variations of weather, light and camera.

Layout: SceneXX/VARIATION/frames/{rgb,depth}/Camera_{0,1}/{rgb,depth}_%05d.{jpg,png} and SceneXX/VARIATION/
{extrinsic,intrinsic}.txt (the archives vkitti_2.0.3_{rgb,depth,textgt} unpacked into one folder); SRC may be the whole
or one scene. Both tables have a line of names; intrinsic: frame camera fx fy cx cy; extrinsic: frame camera and the 4x4
cam_from_world row by row, OpenCV axes, metres. Pixel centres are at integers: cx cy = 620.5 187 in 1242 x 375 pixels.
Depth is uint16 centimetres along z, 65535 = sky. No times; KITTI's 10 Hz.

The paper trains and evaluates on this set, so whole scenes must be held out: those of `hold_out` are marked as split
"test", and `scenes` chooses what is indexed, for an index of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import files_by_number, folders_where
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_table
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 10.0


class Options(StrictModel):
    """What to index and what to hold out."""

    scenes: tuple[str, ...] = Field(
        (), description="Scenes to index, such as Scene01,Scene02 in brackets; empty: all."
    )
    variations: tuple[str, ...] = Field(
        (), description="Variations, such as clone,fog in brackets; empty: all."
    )
    cameras: tuple[Annotated[int, Field(ge=0, le=1)], ...] = Field(
        (0, 1), min_length=1, description="Cameras to index, 0 left and 1 right; a sequence each [-]"
    )
    hold_out: tuple[str, ...] = Field(("Scene20",), description="Scenes that become split test.")
    max_depth: float = Field(80.0, ge=0, description="Depth beyond is not used (VGGT's value); 0: all is [m]")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes, variations and cameras asked for, ordered by path.

    Raises UserError when a scene that is asked for is not there.
    """
    source = source.resolve()
    found = set()
    for folder in folders_where(source, lambda names: "frames" in names, 3):
        scene = folder.parent.name
        found.add(scene)
        if options.scenes and scene not in options.scenes:
            continue
        if options.variations and folder.name not in options.variations:
            continue
        for camera in options.cameras:
            record = _sequence(folder, camera, options)
            if record is not None:
                yield record
    if missing := sorted(set(options.scenes) - found):
        raise UserError(
            f"{source} has no {', '.join(missing)}, which `scenes` asks for; it has {sorted(found)}"
        )


@names_file("folder")
def _sequence(folder: Path, camera: int, options: Options) -> SequenceRecord | None:
    """One variation seen by one camera, None when none of its images is there."""
    scene = folder.parent.name
    intrinsics = _rows(folder / "intrinsic.txt", camera, 4)
    extrinsics = _rows(folder / "extrinsic.txt", camera, 16)
    images = _files(folder / "frames" / "rgb" / f"Camera_{camera}", r"rgb_(\d+)\.(?:jpg|png)")
    depths = _files(folder / "frames" / "depth" / f"Camera_{camera}", r"depth_(\d+)\.png")
    listed = sorted(set(intrinsics) & set(extrinsics))
    numbers = [
        number
        for number in listed
        if number in images and np.isfinite([*intrinsics[number], *extrinsics[number]]).all()
    ]
    where = f"Camera_{camera}"
    if not images:  # a camera or weather that was not downloaded
        leave_out(NO_FRAMES, [f"{scene}/{folder.name}/{where}"], folder.parent.parent, SEQUENCE)
        return None
    leave_out(
        NO_IMAGE, [f"rgb/{where}/rgb_{n:05d}.jpg" for n in listed if n not in images], folder / "frames"
    )
    kept = set(numbers)
    unposed = [f"rgb/{where}/{images[n]}" for n in sorted(images) if n not in kept]
    leave_out(NO_CAMERA, unposed, folder / "frames")
    if not numbers:
        leave_out(NO_FRAMES, [f"{scene}/{folder.name}/{where}"], folder.parent.parent, SEQUENCE)
        return None
    poses = np.stack([extrinsics[number] for number in numbers]).reshape(-1, 4, 4)[:, :3]
    first = folder / "frames" / "rgb" / where / images[numbers[0]]
    return SequenceRecord(
        dataset="virtual_kitti_2",
        sequence_id=f"{scene}/{folder.name}/{where}",
        split="test" if scene in options.hold_out else "train",
        root=folder / "frames",
        image=tuple(f"rgb/{where}/{images[number]}" for number in numbers),
        image_size=np.tile(read_image_size(first), (len(numbers), 1)),  # one size in the whole set
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(f"depth/{where}/{depths[n]}" if n in depths else "" for n in numbers) if depths else (),
        depth_codec="uint16_cm_sky" if depths else "",
        camera_model="pinhole",
        intrinsics=np.stack([intrinsics[number] for number in numbers]),
        cam_from_world=poses,
        pixel_centre="integer",
        num_missing=len(listed) - len(numbers),
        is_metric=True,
        is_synthetic=True,
        is_dynamic=True,
        max_depth=options.max_depth,
        licence="CC BY-NC-SA 3.0",
        source="Virtual KITTI 2",
    )


def _rows(path: Path, camera: int, num: int) -> dict[int, np.ndarray]:
    """Numbers [num] of each frame of a camera."""
    table = read_table(path, num + 2, skip_rows=1, is_finite=False)
    return {int(row[0]): row[2:] for row in table if row[1] == camera}


def _files(folder: Path, pattern: str) -> dict[int, str]:
    return files_by_number(folder, pattern) if folder.is_dir() else {}
