"""The images of a posed sequence, and the depth maps and masks that are named as they are."""

from __future__ import annotations

import re
from pathlib import Path

from scal3r_data_tools.formats.matching import frame_keys
from scal3r_data_tools.posed.options import Options
from scal3r_train.config import UserError
from scal3r_train.data.index.source import in_order, is_image_name

IMAGE_FOLDERS = (
    "images",
    "image",
    "rgb",
    "color",
    "colour",
    "image_2",
    "cam0/data",
    "PV",
    "undistorted",
    "frames",
    "",
)
DEPTH_FOLDERS = ("depth", "depths", "depth_maps")
DEPTH_SUFFIXES = (".png", ".npy", ".exr", ".pfm", ".h5", ".hdf5", ".tif", ".tiff")


def find_images(source: Path, options: Options) -> tuple[Path, list[str]]:
    """Folder and names, in order, of the images."""
    choices = IMAGE_FOLDERS if options.images == "auto" else (options.images,)
    for choice in choices:
        folder = source / choice
        names = (
            [
                path.name
                for path in folder.iterdir()
                if is_image_name(path.name) and path.is_file() and not re.search(r"(?i)depth|mask", path.name)
            ]
            if folder.is_dir()
            else []
        )
        if names:
            return folder, in_order(names)
    there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_dir())[:6]) or "no folder"
    raise UserError(
        f"{source} holds no images in {options.images if options.images != 'auto' else 'the usual folders'}; name "
        f"theirs with images=FOLDER (there is {there})"
    )


def find_depth(
    source: Path, folder: Path, images: list[str], options: Options
) -> tuple[tuple[str, ...], str]:
    """Depth file of each image, "" without, and their codec."""
    if options.depth == "none":
        return (), ""
    choices = DEPTH_FOLDERS if options.depth == "auto" else (options.depth,)
    place = next((choice for choice in choices if (source / choice).is_dir()), None)
    if place is None:
        beside = files_beside(source, folder.relative_to(source).as_posix(), images, DEPTH_SUFFIXES, "depth")
        if options.depth != "auto":
            raise UserError(f"{source / options.depth} does not exist; depth= is a folder below {source}")
        if not beside:
            return (), ""
        found = beside
    else:
        found = files_beside(source, place, images, DEPTH_SUFFIXES)
    if not found:
        raise UserError(
            f"{source / str(place)} holds no depth map named as the images are ({images[0]}); give depth=none"
        )
    suffix = Path(next(filter(None, found))).suffix.lower()
    codec = options.depth_codec or {".npy": "npy", ".exr": "exr", ".pfm": "pfm"}.get(suffix, "")
    if not codec:
        raise UserError(
            f"{source}: depth in {suffix} files needs depth_codec=, such as uint16_mm or uint16_cm; or depth=none"
        )
    return found, codec


def files_beside(
    source: Path, place: str, images: list[str], suffixes: tuple[str, ...], word: str = ""
) -> tuple[str, ...]:
    """The file of a folder that belongs to each image, "" without; () when none has one."""
    folder = source / place
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist")
    by_key: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and word in path.name.lower():
            for key in frame_keys(path.name):
                by_key.setdefault(key, path.name)
    prefix = "" if place in ("", ".") else f"{place}/"
    found = tuple(
        next((f"{prefix}{by_key[key]}" for key in frame_keys(name) if key in by_key), "") for name in images
    )
    return found if any(found) else ()
