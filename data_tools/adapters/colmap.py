"""Any COLMAP reconstruction: a sparse model and the images that it was made from.

Layout: folders that hold cameras and images as .txt or .bin (sparse/0, sparse, ...), in or below SRC, and a folder of
images named by the option `images` in the model's folder or in one above it. Poses are cam_from_world with quaternions
wxyz, OpenCV axes, in a unit of the model's own. Pixel centres are at half integers. Camera models: see
`camera/camera_model.py`; a model whose cameras cannot be written as one kind of lens becomes one sequence a kind.
Images may be smaller than those that were calibrated: their cameras are scaled. Frames are ordered by name. Left out
and counted: images that are not there, have no finite pose, or whose EXIF rotation turns them against their camera
(COLMAP does not turn). The order and the unit are not known to the files: `is_ordered`, `is_metric`. There is no depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from scal3r_data_tools.formats.colmap import find_models, read_images, record_of, split_by_lens, views_of
from scal3r_data_tools.formats.files import Names
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.sequence import SequenceRecord


class Options(StrictModel):
    """What a model does not say."""

    images: str = Field("images", description="name of the folder of images")
    is_ordered: bool = Field(False, description="whether names follow time, as those of a video's frames do")
    is_metric: bool = Field(False, description="whether the model's unit is the metre")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all models in or below the folder, ordered by path."""
    source = source.resolve()
    for model in find_models(source):
        root = _folder_with_images(model, source, options.images)
        views, num_missing = views_of(model, root, lambda name: f"{options.images}/{name}")
        if not views:
            raise UserError(
                f"{model} lists {num_missing} images, none of them can be used in {root / options.images}"
                f"{_example(model, root, options.images)}"
            )
        name = model.name if model == source else model.relative_to(source).as_posix()
        for number, (suffix, part) in enumerate(split_by_lens(views)):
            yield record_of(
                part,
                dataset="colmap",
                sequence_id=name + suffix,
                root=root,
                num_missing=0 if number else num_missing,
                is_ordered=options.is_ordered,
                is_metric=options.is_metric,
                licence="that of the images",
                source="COLMAP",
            )


def _folder_with_images(model: Path, source: Path, images: str) -> Path:
    for folder in (model, *model.parents):
        if (folder / images).is_dir():
            return folder
        if folder == source.parent.parent:  # SRC may be SCENE/sparse/0
            break
    raise UserError(f"{model}: no folder '{images}' in it or above it; name it with images=FOLDER")


def _example(model: Path, root: Path, images: str) -> str:
    """An image of the model that is not there, and what is."""
    there = Names(root)
    names = (f"{images}/{image.name}" for image in read_images(model))
    absent = next((name for name in names if not there.find(name)), "")
    return f"; {absent} is not there{', ' + there.nearest(absent)}" if absent else ""
