"""A folder of images, a file of poses and a calibration, as nearly everybody has them.

SRC holds the images, in itself or in a folder (images, image, rgb, color, colour, image_2, cam0/data, PV, ..); poses in
one file or one file an image (`scal3r_data_tools.formats.pose_files` says in which forms); a calibration
(`intrinsics_files`) or a field of view; and, if there are any, depth maps, masks and time stamps. Options name what is
called otherwise and say what files do not: direction and axes of the poses, codec of depth, metric or not. What was
found and how it was read is said in one line; `scal3r data check` then says whether it can be true.

Which pose belongs to which image is told, in this order, by names in the pose file (with or without folder and suffix),
by time where both have times, by the numbers in the images' names where they count the poses, else by order, which
needs as many poses as images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import note_turned, readable
from scal3r_data_tools.formats.matching import (
    example_of,
)
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.posed.calibration import find_calibration, intrinsics_of
from scal3r_data_tools.posed.options import Options
from scal3r_data_tools.posed.pictures import files_beside, find_depth, find_images
from scal3r_data_tools.posed.times import read_times
from scal3r_data_tools.posed.trajectory import axes_of, find_poses
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import ImageHeader
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import note

NO_TIME = Cause("without a time")
__all__ = ["Options", "index"]


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """The one sequence of the folder."""
    source = source.resolve()
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the one that holds images and poses")
    folder, images = find_images(source, options)
    headers = readable(folder, images)
    note_turned(folder, [name for name, header in headers.items() if header.is_turned])
    yield _sequence(source, folder, images, headers, options)


@names_file("source")
def _sequence(
    source: Path, folder: Path, images: list[str], headers: dict[str, ImageHeader], options: Options
) -> SequenceRecord:
    stamps = read_times(source, images, options)
    pose, matched, table, where = find_poses(source, folder, images, stamps, options)
    is_whole = np.array([name in headers and not headers[name].is_turned for name in images])
    has_time = np.isfinite(stamps) if stamps is not None else np.ones(len(images), bool)
    has_pose = matched.row >= 0
    known = np.flatnonzero(has_pose & has_time & is_whole)
    for cause, flags in ((NO_POSE, ~has_pose & is_whole), (NO_TIME, has_pose & ~has_time & is_whole)):
        leave_out(cause, [images[place] for place in np.flatnonzero(flags)], folder)
    leave_out(NO_IMAGE, matched.unused, source)
    if not len(known):
        raise UserError(
            f"{source}: none of the {len(images)} images (the first is {images[0]}) has a pose in {where}, whose "
            f"{example_of(table)}; they were compared by {matched.rule}, change match=, times= or max_gap_s="
        )
    kept = [images[place] for place in known]
    sizes = np.array([headers[name].hw for name in kept], np.int64)
    found, calibration = find_calibration(source, options)
    if found is not None and found.cam_from_rig is not None:
        pose[:, :, 3] += found.cam_from_rig
        calibration += f", {np.linalg.norm(found.cam_from_rig):.3g} from the camera that is posed"
    intrinsics = intrinsics_of(images, known, sizes, table, matched, found, calibration, options)
    prefix = "" if folder == source else f"{folder.relative_to(source).as_posix()}/"
    depth, codec = find_depth(source, folder, kept, options)
    masks = files_beside(source, options.masks, kept, (".png",)) if options.masks != "none" else ()
    times = stamps[known] if stamps is not None else known / (options.fps or 1.0)
    note(
        f"{source.name}: {len(kept)} of {len(images)} images have a pose; {where} read as {table.form}, "
        f"{options.poses_are}, {axes_of(options, table)} axes, matched by {matched.rule}; {calibration}"
        + (f"; {sum(map(bool, depth))} depth maps" if depth else "")
    )
    return SequenceRecord(
        dataset="posed",
        sequence_id=source.name,
        split=options.split,
        root=source,
        image=tuple(f"{prefix}{name}" for name in kept),
        image_size=sizes,
        timestamp=times,
        depth=depth,
        depth_codec=codec,
        mask=masks,
        mask_rule=options.mask_rule if masks else "",
        camera_model="" if intrinsics is None else options.camera_model,
        intrinsics=intrinsics,
        distortion=np.tile(options.distortion, (len(kept), 1)) if options.distortion else None,
        cam_from_world=pose[known],
        pixel_centre=options.pixel_centre,
        num_missing=len(images) - len(kept) + len(matched.unused),
        is_metric=options.is_metric,
        max_depth=options.max_depth_m,
        source="posed",
    )
