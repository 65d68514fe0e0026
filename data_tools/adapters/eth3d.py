"""ETH3D, high-resolution multi-view: photos of 25 places with laser-scanned depth (13 with ground truth), in metres.

Layout: SCENE/{images/dslr_images/NAME.JPG, dslr_calibration_jpg/{cameras, images, points3D}.txt,
ground_truth_depth/dslr_images/NAME.JPG}: distorted photos, COLMAP text with THIN_PRISM_FISHEYE cameras, and depth as
raw float32 of the photo's size, rows from the top, z in metres, infinite where nothing was scanned, in the distorted
frame. Or, with `images=undistorted`, SCENE/{images/dslr_images_undistorted, dslr_calibration_undistorted}, PINHOLE,
for which the set has no depth. Names in images.txt begin with the folder. Poses are cam_from_world, quaternions wxyz;
pixel centres at half integers. Photos are unordered, about 6048 x 4032. A few were taken with the camera on its side
and are stored like that, with a camera to match (delivery_area, playground, relief, relief_2): geometry is right, but
the view lies. They are those whose camera's down axis is more than 60 degrees from the mean of the scene, and are left
out and counted unless `keep_turned`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.colmap import CAMERA_FILES, View, is_model, record_of, split_by_lens, views_of
from scal3r_data_tools.formats.files import relative_name
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.left_out import IMAGE, Cause, leave_out
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord

CALIBRATIONS = {"distorted": "dslr_calibration_jpg", "undistorted": "dslr_calibration_undistorted"}
COS_TURNED = 0.5
SIDEWAYS = Cause("taken with the camera on its side", "keep_turned=true keeps them")


class Options(StrictModel):
    """Which photos."""

    images: Literal["distorted", "undistorted"] = Field(
        "distorted", description="only distorted photos have depth"
    )
    keep_turned: bool = Field(
        False, description="keep photos taken with the camera on its side, as they are stored"
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    name = CALIBRATIONS[options.images]
    folders = {path.parent for path in found_below(source, lambda file: file in CAMERA_FILES)}
    for model in sorted(folder for folder in folders if folder.name == name):
        if is_model(model):
            yield from _scene(model, source, options)


@names_file("model")
def _scene(model: Path, source: Path, options: Options) -> Iterator[SequenceRecord]:
    folder = model.parent
    views, num_missing = views_of(model, folder, lambda name: f"images/{name}", size_by_camera=True)
    kept = views if options.keep_turned else _upright(views)
    num_missing += len(views) - len(kept)
    names = {view.path for view in kept}
    leave_out(SIDEWAYS, [view.path for view in views if view.path not in names], folder, IMAGE)
    if not kept:
        raise UserError(
            f"{folder}/images holds none of the {num_missing} images of {model.name}; unpack them there"
        )
    name = relative_name(folder, source)
    for number, (suffix, part) in enumerate(split_by_lens(kept)):
        depths = [f"ground_truth_depth/{view.name}" for view in part]
        depths = [depth if (folder / depth).is_file() else "" for depth in depths]
        has_depth = options.images == "distorted" and any(depths)
        yield record_of(
            part,
            dataset="eth3d",
            sequence_id=name + suffix,
            split="test",
            root=folder,
            depth=tuple(depths) if has_depth else (),
            depth_codec="raw_float32" if has_depth else "",
            num_missing=0 if number else num_missing,
            is_ordered=False,
            is_metric=True,
            licence="CC BY-NC-SA 4.0",
            source="ETH3D high-resolution multi-view",
        )


def _upright(views: Sequence[View]) -> list[View]:
    """Views whose camera stands as most of them do."""
    down = np.array([view.cam_from_world[1, :3] for view in views]).reshape(-1, 3)  # the y axis, in the world
    mean = down.mean(0) if len(down) else np.zeros(3)
    cosine = down @ mean / max(float(np.linalg.norm(mean)), 1e-9)
    return [view for view, value in zip(views, cosine, strict=True) if value > COS_TURNED]
