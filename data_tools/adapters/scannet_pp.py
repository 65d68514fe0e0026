"""ScanNet++: rooms photographed with a fisheye (DSLR) and filmed with a phone, with a laser-scanned mesh; metres.

Layout: [data/]SCENE/{dslr, iphone, scans}. DSLR: dslr/{resized_images/DSC%05d.JPG, resized_anon_masks/DSC%05d.png,
colmap/{cameras, images}.txt, nerfstudio/transforms.json}; COLMAP's text with one OPENCV_FISHEYE camera. Phone:
iphone/{rgb/frame_%06d.jpg, rgb_masks/frame_%06d.png, colmap}, an OPENCV camera, 60 frames a second of which some have
poses (the toolbox of the set unpacks rgb.mp4). Poses are cam_from_world, quaternions wxyz, in the frame of the mesh
scans/mesh_aligned_0.05.ply; the world of transforms.json need not be the same: of that file only the flags `is_bad` of
`frames` and `test_frames` are read. Without dslr/colmap its cameras are taken, world_from_cam with OpenGL axes. Pixel
centres are at half integers. Masks are 0 where faces and the like were made unrecognizable.

There is no depth: `scal3r data prepare scannet_pp SRC OUT` renders it from the mesh (`preparing/scannet_pp.py`), and
`depth=OUT` indexes it. Photos are unordered, frames of the phone ordered; the phone's poses are less good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from scal3r_data_tools.adapters import nerfstudio
from scal3r_data_tools.formats.colmap import View, is_model, record_of, split_by_lens, views_of
from scal3r_data_tools.formats.json_files import read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.left_out import SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

PHONE_FRAMES_PER_SECOND = 60.0
MAX_DEPTH_M = 20.0
MASKED = "below 128"
DEPTH_FOLDER = "render_depth"
FLAGGED = Cause("that the set flags as bad", "keep_bad=true keeps them")
NO_DEVICE = Cause("without that camera", "download it, or give device=")
NO_MODEL = Cause("without a COLMAP model", "download colmap/")


@dataclass(frozen=True)
class Device:
    """Where a camera's files are below its scene: name, folders of images and masks, whether they are a video."""

    name: str
    images: str
    masks: str
    is_video: bool


DEVICES = {
    "dslr": Device("dslr", "resized_images", "resized_anon_masks", is_video=False),
    "iphone": Device("iphone", "rgb", "rgb_masks", is_video=True),
}
FACTS: dict[str, Any] = {
    "dataset": "scannet_pp",
    "is_metric": True,
    "licence": "ScanNet++ terms of use, non-commercial",
    "source": "ScanNet++",
}


class Options(StrictModel):
    """Which scenes and cameras, and where rendered depth is."""

    device: Literal["dslr", "iphone", "both"] = Field("dslr", description="which camera")
    depth: str = Field(
        "", description='folder that `scal3r data prepare` wrote; "": SRC, without depth if there is none'
    )
    scenes: str = Field(
        "", description='text file with one scene a line, as splits/nvs_sem_train.txt; "": all'
    )
    keep_bad: bool = Field(False, description="keep photos that are flagged as bad (blurred or badly posed)")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes of the folder, ordered by name; one a camera."""
    source = source.resolve()
    for scene in scenes_of(source, options.scenes):
        depth = Path(options.depth).resolve() / scene.name if options.depth else scene
        for device in devices_of(options.device):
            if is_model(scene / device.name / "colmap"):
                yield from _from_colmap(scene, device, depth, options)
            elif device.name == options.device and not (scene / device.name).is_dir():
                leave_out(NO_DEVICE, [f"{scene.name}/{device.name}"], source, SEQUENCE)
            elif not device.is_video and (scene / "dslr" / "nerfstudio" / nerfstudio.FILE_NAME).is_file():
                yield _from_nerfstudio(scene, options)
            elif (scene / device.name).is_dir():
                leave_out(NO_MODEL, [f"{scene.name}/{device.name}"], source, SEQUENCE)


def scenes_of(source: Path, listing: str) -> list[Path]:
    """Folders of the scenes: the source itself, or those in it or in its folder `data`, by name."""
    places = [source, *sorted(source.glob("*")), *sorted((source / "data").glob("*"))]
    scenes = [place for place in places if any((place / name).is_dir() for name in DEVICES)]
    if listing:
        try:
            names = read_text_file(Path(listing)).split()
        except OSError as error:
            raise UserError(f"list of scenes {listing} cannot be read: {error.strerror}") from None
        scenes = [scene for scene in scenes if scene.name in names]
    return scenes


def devices_of(name: str) -> list[Device]:
    """The cameras that an option names."""
    return [device for key, device in DEVICES.items() if name in (key, "both")]


def views(scene: Path, device: Device, *, keep_bad: bool) -> tuple[list[View], int]:
    """Return the usable views of a camera and how many are listed but left out; paths are relative to the scene."""
    folder = f"{device.name}/{device.images}"
    model = scene / device.name / "colmap"
    found, num_missing = views_of(
        model, scene, lambda name: f"{folder}/{Path(name).name}", size_by_camera=True
    )
    bad = set() if keep_bad else _flagged(scene / device.name / "nerfstudio" / nerfstudio.FILE_NAME)
    good = [view for view in found if Path(view.name).name not in bad]
    leave_out(FLAGGED, [view.path for view in found if Path(view.name).name in bad], scene)
    if not good:
        raise UserError(
            f"{scene / folder} holds none of the images of {model}; are they downloaded or unpacked?"
        )
    return good, num_missing + len(found) - len(good)


def depth_name(device: Device, image: str) -> str:
    """Path of the rendered depth of an image below the folder of its scene."""
    return f"{device.name}/{DEPTH_FOLDER}/{Path(image).stem}.png"


@names_file("scene")
def _from_colmap(scene: Path, device: Device, depth: Path, options: Options) -> Iterator[SequenceRecord]:
    good, num_missing = views(scene, device, keep_bad=options.keep_bad)
    for number, (suffix, part) in enumerate(split_by_lens(good)):
        masks = [f"{device.name}/{device.masks}/{Path(view.path).stem}.png" for view in part]
        masks = [mask if (scene / mask).is_file() else "" for mask in masks]
        depths = [depth / depth_name(device, view.path) for view in part]
        found = [os.path.relpath(path, scene) if path.is_file() else "" for path in depths]
        if options.depth and not any(found):
            raise UserError(
                f"{depths[0].parent} holds no depth of {scene.name}; run `scal3r data prepare scannet_pp` first"
            )
        yield record_of(
            part,
            sequence_id=f"{scene.name}/{device.name}{suffix}",
            root=scene,
            timestamp=_times(part, device),
            depth=tuple(found) if any(found) else (),
            depth_codec="uint16_mm" if any(found) else "",
            mask=tuple(masks) if any(masks) else (),
            mask_rule=MASKED if any(masks) else "",
            num_missing=0 if number else num_missing,
            is_ordered=device.is_video,
            max_depth=MAX_DEPTH_M,
            **FACTS,
        )


@names_file("scene")
def _from_nerfstudio(scene: Path, options: Options) -> SequenceRecord:
    path = scene / "dslr" / "nerfstudio" / nerfstudio.FILE_NAME
    document = read_json(path)
    bad = set() if options.keep_bad else _flagged(path)
    frames = []
    for frame in [*document.get("frames", []), *document.get("test_frames", [])]:
        name = Path(frame["file_path"]).name
        if name in bad:
            leave_out(FLAGGED, [f"dslr/resized_images/{name}"], scene)
        else:
            mask = f"../resized_anon_masks/{Path(name).stem}.png"
            frames.append(frame | {"file_path": f"../resized_images/{name}", "mask_path": mask})
    return nerfstudio.record_of(
        document | {"frames": frames},
        path,
        sequence_id=f"{scene.name}/dslr",
        same_size=True,
        mask_rule=MASKED,
        is_ordered=False,
        **FACTS,
    )


def _flagged(path: Path) -> set[str]:
    """Names of the photos that are flagged as bad."""
    if not path.is_file():
        return set()
    document = read_json(path)
    frames = [*document.get("frames", []), *document.get("test_frames", [])]
    return {Path(frame["file_path"]).name for frame in frames if frame.get("is_bad")}


def _times(part: list[View], device: Device) -> np.ndarray:
    if not device.is_video:
        return np.arange(len(part), dtype=np.float64)
    return (
        np.array([int(re.findall(r"\d+", Path(view.path).stem)[-1]) for view in part])
        / PHONE_FRAMES_PER_SECOND
    )
