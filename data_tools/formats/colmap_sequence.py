"""Records from COLMAP models: the images that are there, their cameras scaled to the files, split by kind of lens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_data_tools.formats.colmap_model import read_cameras, read_images
from scal3r_train.config import UserError
from scal3r_train.data.colmap_camera import Lens, family, lens_of, merged
from scal3r_train.data.image_codec import read_image_size
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.source import natural_key

MAX_STRETCH = 0.02  # of a resized image's aspect ratio by rounding


@dataclass(frozen=True)
class View:
    """One image of a model that can be used.

    Attributes:
        name: as the model calls it.
        path: of the file, relative to the root of the record.
        lens: of the image as it is in the file, which may be smaller than the one that was calibrated.
        hw: size of the file.
        cam_from_world: [3, 4].
    """

    name: str
    path: str
    lens: Lens
    hw: tuple[int, int]
    cam_from_world: np.ndarray


def views_of(
    model: Path, root: Path, path_of: Callable[[str], str], *, size_by_camera: bool = False
) -> tuple[list[View], int]:
    """Return the views of a model by name, and how many are listed but cannot be used.

    Those are left out: without file, without a finite pose, or turned in the file against their camera.

    Args:
        model: folder of the model.
        root: of the record.
        path_of: from the name of an image in the model to its path below the root.
        size_by_camera: one image a camera tells the size of all of them.

    Raises:
        UserError: the model is damaged.
    """
    cameras = read_cameras(model)
    sizes: dict[int, tuple[int, int]] = {}
    views, num_listed = [], 0
    for image in read_images(model):
        num_listed += 1
        path = path_of(image.name)
        if not np.isfinite(image.cam_from_world).all() or not (root / path).is_file():
            continue
        if image.camera_id not in cameras:
            raise UserError(f"{model}: image {image.name} has camera {image.camera_id}, which is not listed")
        camera = cameras[image.camera_id]
        hw = sizes.get(image.camera_id) if size_by_camera else None
        hw = sizes[image.camera_id] = read_image_size(root / path) if hw is None else hw
        scale = hw[1] / camera.hw[1], hw[0] / camera.hw[0]
        if abs(scale[0] / scale[1] - 1) > MAX_STRETCH:
            continue
        lens = lens_of(camera)
        intrinsics = tuple(value * scale[axis % 2] for axis, value in enumerate(lens.intrinsics))
        views.append(View(image.name, path, replace(lens, intrinsics=intrinsics), hw, image.cam_from_world))
    views.sort(key=lambda view: natural_key(view.name))
    return views, num_listed - len(views)


def split_by_lens(views: Sequence[View]) -> Iterator[tuple[str, list[View]]]:
    """Views whose cameras fit into one record, with a suffix for its name that is "" when all of them do."""
    kinds = sorted({family(view.lens) for view in views})
    for kind in kinds:
        yield "" if len(kinds) == 1 else f"/{kind}", [view for view in views if family(view.lens) == kind]


def record_of(views: Sequence[View], **fields: Any) -> SequenceRecord:
    """Record of views of one kind of lens; `fields` are those that do not follow from the views."""
    model, intrinsics, distortion = merged([view.lens for view in views])
    derived: dict[str, Any] = {"timestamp": np.arange(len(views), dtype=np.float64)}
    return SequenceRecord(
        image=tuple(view.path for view in views),
        image_size=np.array([view.hw for view in views], np.int64),
        camera_model=model,
        intrinsics=intrinsics,
        distortion=distortion,
        cam_from_world=np.stack([view.cam_from_world for view in views]),
        **(derived | fields),
    )
