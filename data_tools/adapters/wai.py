"""WAI, the layout of MapAnything's data processing, which a score of public sets may be converted to.

Layout: SCENE/scene_meta.json, like nerfstudio's transforms.json but with OpenCV axes: transform_matrix is
world_from_cam (4x4, also as one flat list). Intrinsics as in nerfstudio (`nerfstudio.py`), at the top or in each
frame; scenes that are still distorted have scene_meta_distorted.json, which is not read. `frame_modalities` maps what
a frame has to the key under which each frame names the file: {"depth": {"frame_key": "depth", "format": "depth"}}.
Depth is z in the unit of the poses, .exr, or .png in millimetres. `scale_type` metric says that the unit is the metre;
others, and scenes that do not say, are not metric. Masks are 0 where pixels are not to be used. Which modalities are
read are the options `depth` and `mask`; predicted depth is read only when asked for. Whether frames follow time is not
known: option.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scal3r_data_tools.adapters import nerfstudio
from scal3r_data_tools.formats.files import folders_where, relative_name
from scal3r_data_tools.formats.json_files import entry, read_json
from scal3r_data_tools.formats.poses import OPENGL_FROM_OPENCV
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.sequence import SequenceRecord

MAX_LEVELS = 6
FILE_NAME = "scene_meta.json"
DEPTH_CODECS = {".exr": "exr", ".png": "uint16_mm", ".npy": "npy"}


class Options(StrictModel):
    """What a scene does not say."""

    depth: str = Field(
        "depth", description='frame modality with the depth; scenes without it have none; "": none'
    )
    mask: str = Field("", description='frame modality with the mask, 0 = not to be used; "": none')
    is_ordered: bool = Field(False, description="whether names follow time")
    is_synthetic: bool = Field(False, description="whether images are rendered")
    is_dynamic: bool = Field(False, description="whether things move")
    max_depth: float = Field(0.0, ge=0, description="depth beyond is dropped; 0: none is [scene units]")
    max_depth_percentile: float = Field(
        0.0,
        ge=0,
        le=100,
        description="depth above this percentile of its frame is dropped; 0: none is [percentile]",
    )
    licence: str = Field("that of the converted set", description="licence of the set, for the index")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: FILE_NAME in names, MAX_LEVELS):
        name = relative_name(folder, source)
        yield _scene(folder / FILE_NAME, name, options)


@names_file("path")
def _scene(path: Path, name: str, options: Options) -> SequenceRecord:
    document = read_json(path)
    if document.get("camera_convention", "opencv") != "opencv":
        raise UserError(
            f"{path}: camera_convention {document['camera_convention']} is not supported, only opencv"
        )
    depth_key, mask_key = (_frame_key(document, modality) for modality in (options.depth, options.mask))
    frames = [_as_nerfstudio(frame, path, depth_key, mask_key) for frame in entry(document, "frames", path)]
    ends = {Path(frame["depth_file_path"]).suffix.lower() for frame in frames if frame["depth_file_path"]}
    if len(ends) > 1 or not ends <= set(DEPTH_CODECS):
        raise UserError(
            f"{path}: depth files end in {', '.join(sorted(ends))}, expected one of {', '.join(DEPTH_CODECS)}"
        )
    return nerfstudio.record_of(
        document | {"frames": frames},
        path,
        dataset="wai",
        sequence_id=name,
        depth_codec=DEPTH_CODECS[ends.pop()] if ends else "",
        depth_scale=1.0,
        is_ordered=options.is_ordered,
        is_metric=document.get("scale_type") == "metric",
        is_synthetic=options.is_synthetic,
        is_dynamic=options.is_dynamic,
        max_depth=options.max_depth,
        max_depth_percentile=options.max_depth_percentile,
        licence=options.licence,
        source=f"WAI of {document.get('dataset_name', 'an unnamed set')}",
    )


def _frame_key(document: dict[str, Any], modality: str) -> str:
    found = document.get("frame_modalities", {}).get(modality)
    return found.get("frame_key", modality) if isinstance(found, dict) else modality


def _as_nerfstudio(frame: dict[str, Any], path: Path, depth_key: str, mask_key: str) -> dict[str, Any]:
    """Return the frame with OpenGL axes and nerfstudio's names for its files."""
    matrix = np.full((4, 4), np.nan)
    numbers = np.ravel(entry(frame, "transform_matrix", path))
    if numbers.size == matrix.size:
        matrix = np.reshape(numbers.astype(np.float64), (4, 4))
        matrix[:3, :3] = matrix[:3, :3] @ OPENGL_FROM_OPENCV
    return frame | {
        "file_path": frame.get("file_path") or entry(frame, "image", path),
        "transform_matrix": matrix.tolist(),
        "depth_file_path": _file(frame, depth_key),
        "mask_path": _file(frame, mask_key),
    }


def _file(frame: dict[str, Any], key: str) -> str | None:
    return (frame.get(key) or frame.get(f"{key}_path")) if key else None
