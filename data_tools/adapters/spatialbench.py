"""SpatialBench: 546 scenes of 19 sets with the frames that everybody is to use, in one layout, metres.

Layout: DENSITY/SET/SCENE/{images, depths, poses, intrinsics, meta.json}, DENSITY one of single, sparse, medium, dense,
SCENE some folders deep; SRC is the folder of the densities, or anything in it. Frames are the files of images/ in plain
order of their names; depths/ and poses/ (NAME.npy, world_from_cam 3x4 or 4x4, OpenCV axes) have as many, in that order.
meta.json says `intrinsic_mode` (shared: intrinsics/intrinsic.npy, 3x3; else NAME.npy each), `depth_format`,
`frame_indices` and, for RLBench, `pyrep_flip`. Pixel centres are at integers. Optional: depth_masks/ (0: depth is not
to be used), sky_masks/ (not 0: sky). Read from the benchmark's public readers.

Which frames a scene has is pinned by the benchmark: all_scenes.json in its repository (benchmark/scene_indices) lists
them. With the option `scene_index` the scenes are those of that file, by its names and tags, and each is checked to
have as many frames as its list; without it, against meta.json.

What differs from the benchmark's own reading: ropedia's confidence masks and hiroom's masks of aliased edges are not
read; ScanNet++'s images, which are stored distorted beside rectified depth, keep their lens and lose their depth;
frames that the benchmark turns by 180 degrees have their camera turned instead, and those that it mirrors are left out.
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

from scal3r_data_tools.formats.files import folders_where
from scal3r_data_tools.formats.json_files import entry, is_finite_number, read_json
from scal3r_data_tools.formats.poses import inverted
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.index.source import is_image_name
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_POSE, SEQUENCE, Cause, leave_out, note_once
from scal3r_train.data.sequence import SequenceRecord

DENSITIES = ("single", "sparse", "medium", "dense")
MAX_LEVELS = 6
META = "meta.json"
# codec and depth_scale by depth_format
FORMATS: dict[str, tuple[str, float]] = {
    "uint16_png_div1000": ("uint16_mm", 1.0),
    "uint16_png_div1000_rectified": ("uint16_mm", 1.0),
    "uint16_png_div100": ("uint16_cm_sky", 1.0),
    "uint16_png_div_655.35": ("uint16_6553.5ths", 10.0),
    "uint16_png_inverse_encoded": ("uint16_inverse_sky", 1.0),  # times meta.json's metric_scale
    "npy_float32_meters": ("npy", 1.0),
    "exr_float32": ("exr", 1.0),
}
RAW_FORMAT = re.compile(r"float32_binary\w*_(\d+)x(\d+)")
MAX_DEPTH_M = {
    "droid": 1.0, "tum": 5.0, "nrgbd": 10.0, "7scenes": 10.0, "adt": 10.0, "ropedia": 8.0, "rlbench": 3.0,
    "robotwin": 3.0, "robolab": 3.0, "dtu": 3.0, "eth3d": 30.0, "tanks_and_temples": 30.0, "omniworld": 50.0,
    "lingbot": 20.0, "hiroom": 10.0, "scannetpp": 10.0, "vkitti": 80.0, "waymo": 50.0, "kitti_odometry": 80.0,
}  # fmt: skip
DEPTH_SUFFIXES = (".png", ".jpg", ".jpeg", ".exr", ".npy", ".bin")
OTHER_NUMBER = Cause("with another number of frames than the benchmark's list", "download its archive again")
NOT_HERE = Cause("of the list that are not here", "unpack the archive of that density")
MIRRORED = Cause("that the benchmark mirrors, which no camera does")


class Options(StrictModel):
    """Which scenes."""

    scene_index: Path | None = Field(
        None,
        description="The benchmark's all_scenes.json; null: all scenes below SRC, named by their folders.",
    )
    density: tuple[Literal["single", "sparse", "medium", "dense"], ...] = Field(
        ("sparse", "medium", "dense"),
        min_length=1,
        description="Densities to index; single is one frame a scene.",
    )
    tags: str = Field(
        "",
        description="Scenes by tags as the benchmark selects them, such as scannetpp+dense (both) or dtu|tum (either); "
        "without scene_index only sets and densities are known; empty: all.",
    )


@dataclass(frozen=True)
class Scene:
    """A scene: name, folder, set, density, other tags, and how many frames its list has (None: unknown)."""

    name: str
    folder: Path
    dataset: str
    density: str
    tags: dict[str, str]
    num_frames: int | None


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of the scenes asked for, in the order of the list or by path."""
    source = source.resolve()
    scenes = _listed(source, options.scene_index) if options.scene_index else _found(source)
    for scene in scenes:
        if scene.density in options.density and _has_tags(scene, options.tags):
            if not (scene.folder / META).is_file():
                leave_out(NOT_HERE, [scene.name], source, SEQUENCE)
                continue
            record = _sequence(scene)
            if record is not None:
                yield record


def _found(source: Path) -> Iterator[Scene]:
    for folder in folders_where(source, lambda names: {META, "images"} <= names, MAX_LEVELS):
        parts = folder.parts
        place = next((place for place in range(len(parts) - 3, -1, -1) if parts[place] in DENSITIES), None)
        if place is None:
            raise UserError(
                f"{folder} lies below none of the folders {', '.join(DENSITIES)}; give their folder as SRC"
            )
        yield Scene("/".join(parts[place:]), folder, parts[place + 1], parts[place], {}, None)


def _listed(source: Path, path: Path) -> Iterator[Scene]:
    document = read_json(path)
    if not isinstance(document, list):
        raise UserError(f"{path} is no list of scenes; give the benchmark's all_scenes.json")
    for one in document:
        tags, name = entry(one, "tags", path), str(entry(one, "scene_id", path))
        density, dataset = str(entry(tags, "view_density", path)), str(entry(one, "source_dataset", path))
        frames = entry(one, "frame_indices", path)
        folder = source / density / dataset / str(entry(one, "scene_path", path))
        if not isinstance(frames, list) or not Path(os.path.normpath(folder)).is_relative_to(source):
            raise UserError(f"{path}: {name} is no scene of the benchmark; download the file again")
        yield Scene(name, folder, dataset, density, {key: str(tag) for key, tag in tags.items()}, len(frames))


def _has_tags(scene: Scene, wanted: str) -> bool:
    own = {scene.dataset, scene.density, *scene.tags.values()}
    if "+" in wanted:
        return all(tag in own for tag in wanted.split("+"))
    return not wanted or any(tag in own for tag in wanted.split("|"))


def _sequence(scene: Scene) -> SequenceRecord | None:
    """One scene, None when it is not the one that is listed or none of its frames can be used."""
    folder, meta = scene.folder, read_json(scene.folder / META)
    if not isinstance(meta, dict):
        raise UserError(f"{folder / META} holds no keys; is this SpatialBench's layout?")
    images = _sorted(folder / "images")
    listed = meta.get("frame_indices")
    num_listed = scene.num_frames or (len(listed) if isinstance(listed, list) else len(images))
    if len(images) != num_listed or not images:
        leave_out(OTHER_NUMBER, [f"{scene.name} ({len(images)} instead of {num_listed})"], folder, SEQUENCE)
        return None
    poses = _poses(folder, images, meta)
    known = np.ones(len(images), bool) if poses is None else np.isfinite(poses).all((1, 2))
    leave_out(NO_POSE, [f"images/{images[place]}" for place in np.flatnonzero(~known)], folder)
    turned, mirrored = _flips(meta, images, folder / META)
    leave_out(MIRRORED, [f"images/{images[place]}" for place in np.flatnonzero(known & mirrored)], folder)
    kept = np.flatnonzero(known & ~mirrored)
    if not len(kept):
        raise UserError(f"{folder}: none of its {len(images)} frames can be used; is {META} whole?")
    sizes = np.array([read_image_size(folder / "images" / images[place]) for place in kept], np.int64)
    cam_from_world = None
    if poses is not None:
        cam_from_world = inverted(poses[kept])
        cam_from_world[turned[kept], :2] *= -1  # half a turn about the optical axis
    intrinsics, lens = _cameras(folder, images, meta)
    depth, codec, scale = ([], "", 1.0) if lens is not None else _depth(folder, images, meta, sizes[0])
    masks, skies = (_beside(folder, name, images) for name in ("depth_masks", "sky_masks"))
    pick = [int(place) for place in kept]
    return SequenceRecord(
        dataset="spatialbench",
        sequence_id=scene.name,
        root=folder,
        split="test",
        image=tuple(f"images/{images[place]}" for place in pick),
        image_size=sizes,
        timestamp=np.arange(len(kept), dtype=np.float64),
        depth=tuple(depth[place] for place in pick) if depth else (),
        depth_codec=codec if depth else "",
        depth_scale=scale,
        mask=tuple(masks[place] for place in pick) if masks and depth else (),
        mask_rule="below 1" if masks and depth else "",
        sky_mask=tuple(skies[place] for place in pick) if skies and depth else (),
        sky_mask_rule="from 1" if skies and depth else "",
        camera_model="pinhole" if lens is None else "opencv",
        intrinsics=intrinsics[kept],
        distortion=None if lens is None else np.tile(lens, (len(kept), 1)),
        cam_from_world=cam_from_world,
        pixel_centre="integer",
        num_missing=len(images) - len(kept),
        is_ordered=scene.density == "dense",
        is_metric=True,
        is_synthetic=scene.tags.get("data_type") == "simulation",
        is_dynamic=scene.tags.get("dynamics") == "dynamic",
        max_depth=MAX_DEPTH_M.get(scene.dataset, 0.0),
        licence="those of the source sets",
        source=f"SpatialBench, {scene.dataset}",
    )


def _sorted(folder: Path) -> list[str]:
    """Images in the benchmark's order, that of their letters."""
    return (
        sorted(path.name for path in folder.iterdir() if is_image_name(path.name)) if folder.is_dir() else []
    )


def _poses(folder: Path, images: list[str], meta: dict[str, Any]) -> np.ndarray | None:
    """world_from_cam [S, 3, 4], None for scenes without."""
    files = sorted(path.name for path in (folder / "poses").glob("*.npy"))
    if not files or meta.get("pose") == "none":
        return None
    if len(files) != len(images):
        raise UserError(f"{folder}/poses has {len(files)} files for {len(images)} images; download it again")
    return np.stack([_array(folder / "poses" / name, ((3, 4), (4, 4)))[:3] for name in files])


def _cameras(folder: Path, images: list[str], meta: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Fx fy cx cy [S, 4], and the lens where images are stored distorted."""
    place, shape = folder / "intrinsics", ((3, 3),)
    lens = None
    if meta.get("image_state") == "distorted_original":
        lens = _array(place / "distortion_coeffs.npy", None).ravel()[:5]
        matrices = np.tile(_array(place / "K_distorted.npy", shape), (len(images), 1, 1))
        note_once("distorted", f"{folder}: its images are distorted, its depth is not; depth is left out")
    elif meta.get("intrinsic_mode", "shared") == "shared":
        matrices = np.tile(_array(place / "intrinsic.npy", shape), (len(images), 1, 1))
    else:
        matrices = np.stack([_array(place / f"{Path(name).stem}.npy", shape) for name in images])
    return matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]], lens


def _depth(
    folder: Path, images: list[str], meta: dict[str, Any], hw: np.ndarray
) -> tuple[list[str], str, float]:
    """Depth file of each image, their codec and what multiplies them."""
    name = str(meta.get("depth_format", "none"))
    there = folder / "depths"
    files = sorted(path.name for path in there.iterdir()) if there.is_dir() else []
    files = [f"depths/{file}" for file in files if file.lower().endswith(DEPTH_SUFFIXES)]
    if name == "none" or not files:
        return [], "", 1.0
    if len(files) != len(images):
        raise UserError(f"{there} has {len(files)} files for {len(images)} images; download it again")
    raw = RAW_FORMAT.fullmatch(name)
    if raw is not None:
        if (int(raw[1]), int(raw[2])) != tuple(int(side) for side in hw):
            note_once("depth size", f"{folder}: depth of another size than the images is left out")
            return [], "", 1.0
        return files, "raw_float32", 1.0
    if name not in FORMATS:
        raise UserError(f"{folder / META}: depth_format '{name}' is unknown; known are {', '.join(FORMATS)}")
    codec, scale = FORMATS[name]
    if codec == "uint16_inverse_sky":
        scale = meta.get("metric_scale", 1.0)
        if not is_finite_number(scale, above=0):
            raise UserError(f"{folder / META}: metric_scale is {scale!r}; it must be a number above 0")
    return files, codec, float(scale)


def _beside(folder: Path, kind: str, images: list[str]) -> list[str]:
    """Mask of each image in order, none when there are not as many."""
    files = _sorted(folder / kind)
    return [f"{kind}/{file}" for file in files] if len(files) == len(images) else []


def _flips(meta: dict[str, Any], images: list[str], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which frames [S] the benchmark turns by 180 degrees, and which it mirrors."""
    given = meta.get("pyrep_flip") or []
    try:
        flips = {one["basename"]: (bool(one.get("flip_lr")), bool(one.get("flip_ud"))) for one in given}
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: pyrep_flip is not a list of objects with a basename") from None
    both = [flips.get(Path(name).stem, (False, False)) for name in images]
    turned = np.array([left and up for left, up in both], bool)
    return turned, np.array([left != up for left, up in both], bool)


def _array(path: Path, shapes: tuple[tuple[int, ...], ...] | None) -> np.ndarray:
    """Numbers of a .npy file as float64. Raises UserError when it is missing, damaged or of another shape."""
    try:
        array = np.load(path, allow_pickle=False).astype(np.float64)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this SpatialBench's layout?") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if shapes is not None and array.shape not in shapes:
        raise UserError(f"{path} has shape {array.shape}, expected {' or '.join(map(str, shapes))}")
    return array
