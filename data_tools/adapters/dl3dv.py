"""DL3DV-10K: walks with a camera through about 10 000 places; cameras by COLMAP, in a unit of their own.

Layouts, told apart by their files: as published, [1K..11K/]HASH/[nerfstudio/]transforms.json with images, images_2,
images_4 or images_8 beside it (the number divides the size that transforms.json states), nerfstudio's format with
OpenGL axes and an OPENCV lens, no depth; or CUT3R's preprocessing, SCENE/dense/{rgb, depth, cam, sky_mask,
outlier_mask} (see `cut3r.py`), with depth by multi-view stereo, of which CUT3R drops what lies above the 98th
percentile. file_path always says `images/...`: which of the folders is read is the option `images`; by default the
first that is there of images_4 (960 x 540, enough to train at 518 pixels), images_2, images, images_8. One size a
scene. Pixel centres are at half integers. Some scenes are in portrait format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scal3r_data_tools.adapters import cut3r, nerfstudio
from scal3r_data_tools.formats.files import folders_where, relative_name
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.sequence import SequenceRecord

IMAGE_FOLDERS = ("images_4", "images_2", "images", "images_8")
MAX_LEVELS = 6
FACTS: dict[str, Any] = {"licence": "DL3DV-10K terms of use, non-commercial", "source": "DL3DV-10K"}

PROCESSED = cut3r.Options(
    dataset="dl3dv", max_depth_percentile=98.0, pixel_centre="half", licence=FACTS["licence"]
)


class Options(StrictModel):
    """Which of the copies is read."""

    images: Literal["", "images", "images_2", "images_4", "images_8"] = Field(
        "", description='folder of images; "": the first that is there of ' + ", ".join(IMAGE_FOLDERS)
    )


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: nerfstudio.FILE_NAME in names, MAX_LEVELS):
        yield _raw(folder, relative_name(folder, source), options)
    for record in cut3r.index(source, PROCESSED):
        yield replace(record, sequence_id=record.sequence_id.removesuffix("/dense"), source=FACTS["source"])


@names_file("folder")
def _raw(folder: Path, name: str, options: Options) -> SequenceRecord:
    path = folder / nerfstudio.FILE_NAME
    candidates = (options.images,) if options.images else IMAGE_FOLDERS
    images = next((images for images in candidates if (folder / images).is_dir()), "")
    if not images:
        raise UserError(
            f"{folder} has none of the folders {', '.join(candidates)}; is the download complete?"
        )
    document = read_json(path)
    for frame in entry(document, "frames", path):
        frame["file_path"] = f"{images}/{Path(entry(frame, 'file_path', path)).name}"
    return nerfstudio.record_of(document, path, dataset="dl3dv", sequence_id=name, same_size=True, **FACTS)
