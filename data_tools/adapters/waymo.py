"""Waymo Open as DUSt3R's and CUT3R's preprocessing exports it: five cameras of a car, sparse LiDAR depth.

Layout: SEGMENT/%05d_{1..5}.{jpg,exr,npz} (cameras front, front left, front right, side left, side right) and, in SRC,
invalid_files.h5; SRC may also be one segment. A segment and camera is a sequence. The .npz holds intrinsics [3, 3] of
the image as it is (long side 512), cam2world [4, 4] in metres with OpenCV axes, distortion k1 k2 p1 p2 k3. The .exr is
z of the LiDAR points that meet the image, 0 elsewhere. The export shrinks images but does not undo their lens, and by
Waymo's documentation they have one, so we undo it; `undistort` = false takes them for pinhole images, as CUT3R and
VGGT-Long do. Pixel centres are at integers, as DUSt3R's resizing keeps them. No times; Waymo's 10 Hz.
invalid_files.h5 lists frames (CAMERA_FRAME in SEGMENT/invalid_pairs) that CUT3R leaves out, and so do we, counted as
missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.camera_npz import CameraNpz, read_camera_npz
from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.hdf5_file import dataset_of
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 10.0
INVALID_FILE = "invalid_files.h5"
INVALID = Cause(f"that {INVALID_FILE} lists", "skip_invalid=false keeps them")


class Options(StrictModel):
    """Which frames, and what their lens is."""

    cameras: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field(
        (1, 2, 3, 4, 5),
        min_length=1,
        description="Cameras to index, 1 to 5, of which 1 is the front camera [-]",
    )
    undistort: bool = Field(True, description="Undo the lens that the .npz files describe.")
    skip_invalid: bool = Field(True, description=f"Leave out what {INVALID_FILE} lists, if it is there.")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all segments at most two levels below the folder and the cameras asked for, ordered by path."""
    source = source.resolve()
    invalid: dict[str, set[str]] = {}
    for folder in folders_where(source, _is_segment, 2):
        listing = folder.parent / INVALID_FILE
        if options.skip_invalid and not invalid and listing.is_file():
            invalid = _invalid(listing)
        for camera in options.cameras:
            record = _sequence(folder, source, camera, invalid.get(folder.name, set()), options)
            if record is not None:
                yield record


def _is_segment(names: frozenset[str]) -> bool:
    stems = {name[:-4] for name in names if name.endswith(".npz") and name[:5].isdecimal() and name[5] == "_"}
    return any(f"{stem}.jpg" in names for stem in stems)


@names_file("folder")
def _sequence(
    folder: Path, source: Path, camera: int, invalid: set[str], options: Options
) -> SequenceRecord | None:
    """One segment seen by one camera, None when none of its frames can be used."""
    images = files_by_number(folder, rf"(\d+)_{camera}\.jpg")
    depths = files_by_number(folder, rf"(\d+)_{camera}\.exr")
    cameras: dict[int, CameraNpz] = {}
    for number, image in images.items():
        found = read_camera_npz(folder / f"{image[:-4]}.npz")
        if found is not None and f"{camera}_{number:05d}" not in invalid:
            cameras[number] = found
    numbers = sorted(cameras)
    bad = {number for number in images if f"{camera}_{number:05d}" in invalid}
    leave_out(INVALID, [images[number] for number in sorted(bad)], folder)
    leave_out(NO_CAMERA, [images[n] for n in sorted(images) if n not in cameras and n not in bad], folder)
    listed = files_by_number(folder, rf"(\d+)_{camera}\.npz")
    absent = [f"{number:05d}_{camera}.jpg" for number in sorted(set(listed) - set(images))]
    leave_out(NO_IMAGE, absent, folder)
    if not numbers and not images:  # a camera that was not exported
        return None
    if not numbers:
        leave_out(NO_FRAMES, [f"{relative_name(folder, source)}/camera_{camera}"], source, SEQUENCE)
        return None
    ordered = [cameras[number] for number in numbers]
    lenses = [frame.distortion for frame in ordered if frame.distortion is not None]
    has_lens = options.undistort and len(lenses) == len(ordered)
    num = len(numbers)
    return SequenceRecord(
        dataset="waymo",
        sequence_id=f"{relative_name(folder, source)}/camera_{camera}",
        root=folder,
        image=tuple(images[number] for number in numbers),
        # a camera's images have one size
        image_size=np.tile(read_image_size(folder / images[numbers[0]]), (num, 1)),
        timestamp=np.array(numbers) / FRAMES_PER_SECOND,
        depth=tuple(depths.get(number, "") for number in numbers) if depths else (),
        depth_codec="exr" if depths else "",
        camera_model="opencv" if has_lens else "pinhole",
        intrinsics=np.stack([frame.intrinsics for frame in ordered]),
        distortion=np.stack(lenses) if has_lens else None,
        cam_from_world=inverted(np.stack([frame.world_from_cam for frame in ordered])),
        pixel_centre="integer",
        num_missing=len(images) + len(absent) - num,
        is_metric=True,
        is_dynamic=True,
        licence="Waymo Dataset License, non-commercial",
        source="Waymo Open (CUT3R export)",
    )


def _invalid(path: Path) -> dict[str, set[str]]:
    """CAMERA_FRAME names that are not to be used, by segment."""
    try:
        import h5py  # noqa: PLC0415  optional
    except ImportError:
        raise UserError(
            f"{path} needs h5py: pip install 'scal3r_train[data]', or skip_invalid=false"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            return {
                segment: {
                    name.decode() for name in dataset_of(file[segment], "invalid_pairs", kinds="OS")[()]
                }
                for segment in file
                if isinstance(file.get(segment, getlink=True), h5py.HardLink)
            }
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; download it again or give skip_invalid=false"
        ) from None
