"""Folders that CUT3R's, MASt3R's or DUSt3R's preprocessing wrote, of any of their sets.

Layouts (F a frame's name; world_from_cam [4, 4] with OpenCV axes and intrinsics [3, 3] in a .npz, see camera_npz.py):
- in folders: SCENE/.../{rgb|images|image|color}/F.{png,jpg}, {cam|cams|cameras|metadata}/F.npz, {depth|depths}/
  F.{npy,png,exr} and, if there, sky_mask/F.png, outlier_mask/F.png (DL3DV, Map-free, ARKitScenes, WildRGB-D, ...);
- flat: SCENE/F[_rgb].{png,jpg}, F[_cam].npz, F[_depth].{npy,png,exr} (TartanAir, Virtual KITTI 2, Hypersim, ...);
- Co3D: images/F.{jpg,npz}, depths/F.jpg.geometric.png.
Flat frames %05d_{1..5} are cameras of a car (Waymo), a sequence each. Each folder with frames is a sequence, named by
its path; SRC may be any folder above, at most six levels. Frames without .npz, or with a damaged one, are missing.

From 127 on, sky_mask marks sky and outlier_mask marks depth that is not to be used. Depth is z. What the folders cannot
say are options: whether it is metric, how a PNG stores it, and so on. DUSt3R's resizing has pixel centres at integers.
DUSt3R divides the depth of some sets (Co3D) by each frame's `maximum_depth`, which an index cannot say: name the codec
if its PNGs are plain after all (WildRGB-D: uint16_mm), leave depth out, or index the original set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.camera_npz import CameraNpz, read_camera_npz
from scal3r_data_tools.formats.files import folders_where, relative_name
from scal3r_data_tools.formats.poses import inverted
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

IMAGE_FOLDERS = ("rgb", "images", "image", "color")
CAMERA_FOLDERS = ("cam", "cams", "cameras", "metadata")
DEPTH_FOLDERS = ("depth", "depths")
IMAGE = re.compile(r"(.+?)(?:_rgb)?\.(?:png|jpg|jpeg)")
CAMERA = re.compile(r"(.+?)(?:_cam)?\.npz")
DEPTH = re.compile(r"(.+?)(?:_depth)?(?:\.(?:jpg|png)\.geometric)?\.(npy|png|exr)")
CAR_CAMERA = re.compile(r"\d{5}_([1-5])")
CODEC_OF_SUFFIX = {"npy": "npy", "exr": "exr", "png": "uint16_mm"}


class Options(StrictModel):
    """What the folders do not say; the defaults suit a real, static video of unknown scale."""

    dataset: str = Field(
        "cut3r", min_length=1, description="Name of the set, as mixtures and messages give it."
    )
    depth_codec: str = Field("", description="How depth is stored; default: npy, exr, or uint16_mm for PNG.")
    with_depth: bool = Field(True, description="False: leave depth out.")
    is_metric: bool = Field(False, description="Lengths are metres.")
    is_synthetic: bool = Field(False, description="Images are rendered.")
    is_dynamic: bool = Field(False, description="Things move in the scenes.")
    is_ordered: bool = Field(True, description="Frames are a video, in the order of their names.")
    max_depth: float = Field(0.0, ge=0, description="Depth beyond is not used; 0: no limit [scene units]")
    max_depth_percentile: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Depth above this percentile of its frame is not used; 0: no limit [percentile]",
    )
    pixel_centre: Literal["integer", "half"] = Field(
        "integer", description="Where cx, cy put the first pixel's."
    )
    split: Literal["train", "test"] = Field("train", description="Which split all sequences belong to.")
    licence: str = Field("", description="Licence of the set, for the index.")


@dataclass(frozen=True)
class Files:
    """Files of one sequence by frame, relative to `root`."""

    root: Path
    image: dict[str, str]
    camera: dict[str, str]
    depth: dict[str, str]
    sky_mask: dict[str, str]
    outlier_mask: dict[str, str]


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all sequences at most six levels below the folder, ordered by path.

    Raises UserError for an unknown codec and for depth that an index cannot describe.
    """
    source = source.resolve()
    if options.depth_codec and options.depth_codec not in CODECS:
        raise UserError(
            f"depth_codec '{options.depth_codec}' is unknown; it must be one of {', '.join(CODECS)}"
        )
    for folder in folders_where(source, lambda names: _is_sequence(names) or _is_flat(names), 6):
        name = relative_name(folder, source)
        with_folders = _is_sequence(frozenset(path.name for path in folder.iterdir()))
        for suffix, files in _files_in_folders(folder) if with_folders else _flat_files(folder):
            record = _sequence(files, f"{name}{suffix}", options)
            if record is not None:
                yield record


def _is_sequence(names: frozenset[str]) -> bool:
    has_images = not names.isdisjoint(IMAGE_FOLDERS)
    return has_images and not names.isdisjoint((*CAMERA_FOLDERS, *DEPTH_FOLDERS))


def _is_flat(names: frozenset[str]) -> bool:
    return not _matching(names, IMAGE).keys().isdisjoint(_matching(names, CAMERA))


def _matching(names: frozenset[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Names by frame."""
    matches = [pattern.fullmatch(name) for name in sorted(names)]
    return {match[1]: match[0] for match in matches if match}


def _in_folder(folder: Path, choices: tuple[str, ...], pattern: re.Pattern[str]) -> dict[str, str]:
    """Paths by frame of the first folder of these names that is there."""
    for choice in choices:
        if (folder / choice).is_dir():
            names = frozenset(path.name for path in (folder / choice).iterdir())
            return {frame: f"{choice}/{name}" for frame, name in _matching(names, pattern).items()}
    return {}


def _files_in_folders(folder: Path) -> Iterator[tuple[str, Files]]:
    image = _in_folder(folder, IMAGE_FOLDERS, IMAGE)
    # Co3D keeps cameras beside the images
    camera = _in_folder(folder, CAMERA_FOLDERS, CAMERA) or _in_folder(folder, IMAGE_FOLDERS, CAMERA)
    if image.keys().isdisjoint(camera):
        leave_out(NO_CAMERA, list(image.values()), folder)
        leave_out(NO_FRAMES, [folder.name], folder.parent, SEQUENCE)
    else:
        depth = _in_folder(folder, DEPTH_FOLDERS, DEPTH)
        sky, outlier = (_in_folder(folder, (name,), IMAGE) for name in ("sky_mask", "outlier_mask"))
        yield "", Files(folder, image, camera, depth, sky, outlier)


def _flat_files(folder: Path) -> Iterator[tuple[str, Files]]:
    names = frozenset(path.name for path in folder.iterdir())
    camera = _matching(names, CAMERA)
    image = {frame: name for frame, name in _matching(names, IMAGE).items() if frame in camera}
    # a depth PNG has _depth in its name, an image has not
    depth = {
        frame: name
        for frame, name in _matching(names - frozenset(image.values()), DEPTH).items()
        if frame in image
    }
    matches = {frame: CAR_CAMERA.fullmatch(frame) for frame in image}
    if not all(matches.values()):
        yield "", Files(folder, image, camera, depth, {}, {})
        return
    for number in sorted({match[1] for match in matches.values() if match}):
        mine = {frame: name for frame, name in image.items() if frame.endswith(f"_{number}")}
        own = {frame: name for frame, name in camera.items() if frame.endswith(f"_{number}")}
        yield f"/camera_{number}", Files(folder, mine, own, depth, {}, {})


@names_file("name")
def _sequence(files: Files, name: str, options: Options) -> SequenceRecord | None:
    """One sequence, None when none of its frames has a camera."""
    cameras: dict[str, CameraNpz] = {}
    for frame in sorted(files.image, key=natural_key):
        found = read_camera_npz(files.root / files.camera[frame]) if frame in files.camera else None
        if found is not None:
            cameras[frame] = found
    leave_out(NO_CAMERA, [image for frame, image in files.image.items() if frame not in cameras], files.root)
    absent = [name for frame, name in files.camera.items() if frame not in files.image]
    leave_out(NO_IMAGE, absent, files.root)
    if not cameras:
        leave_out(NO_FRAMES, [name], files.root, SEQUENCE)
        return None
    frames = list(cameras)
    depth = tuple(files.depth.get(frame, "") for frame in frames) if options.with_depth else ()
    codec = _codec(files, depth, cameras, options) if any(depth) else ""
    sky_mask = tuple(files.sky_mask.get(frame, "") for frame in frames)
    outlier_mask = tuple(files.outlier_mask.get(frame, "") for frame in frames)
    return SequenceRecord(
        dataset=options.dataset,
        sequence_id=name,
        split=options.split,
        root=files.root,
        image=tuple(files.image[frame] for frame in frames),
        # resized frames of one scene may differ by a pixel
        image_size=np.array([read_image_size(files.root / files.image[frame]) for frame in frames]),
        timestamp=np.arange(len(frames), dtype=np.float64),
        depth=depth if codec else (),
        depth_codec=codec,
        mask=outlier_mask if any(outlier_mask) else (),
        mask_rule="from 127" if any(outlier_mask) else "",
        sky_mask=sky_mask if any(sky_mask) else (),
        sky_mask_rule="from 127" if any(sky_mask) else "",
        camera_model="pinhole",
        intrinsics=np.stack([camera.intrinsics for camera in cameras.values()]),
        cam_from_world=inverted(np.stack([camera.world_from_cam for camera in cameras.values()])),
        pixel_centre=options.pixel_centre,
        num_missing=len(files.image) + len(absent) - len(frames),
        is_ordered=options.is_ordered,
        is_metric=options.is_metric,
        is_synthetic=options.is_synthetic,
        is_dynamic=options.is_dynamic,
        max_depth=options.max_depth,
        max_depth_percentile=options.max_depth_percentile,
        licence=options.licence,
        source="processed as for CUT3R",
    )


def _codec(files: Files, depth: tuple[str, ...], cameras: dict[str, CameraNpz], options: Options) -> str:
    if options.depth_codec:
        return options.depth_codec
    suffixes = {name.rpartition(".")[2] for name in depth if name}
    if len(suffixes) > 1:
        raise UserError(f"{files.root}: depth files of {' and '.join(sorted(suffixes))}; keep one kind")
    suffix = suffixes.pop()
    if suffix == "png" and any(camera.maximum_depth is not None for camera in cameras.values()):
        raise UserError(
            f"{files.root}: its .npz files hold maximum_depth; if depth is a fraction of it (Co3D), index the original "
            "set or give with_depth=false; if it is plain (WildRGB-D), give depth_codec=uint16_mm"
        )
    return CODEC_OF_SUFFIX[suffix]
