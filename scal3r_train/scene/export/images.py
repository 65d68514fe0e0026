"""The input images of a scene as an export names them, and on request as files that its cameras fit.

Shapes: S frames.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.index.source import IMAGE_SUFFIXES
from scal3r_train.data.io.frame_files import VIDEO_FRAME
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.data.io.image_codec import EXIF_ORIENTATION
from scal3r_train.data.known_cameras import with_cameras
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.scene.export.source import ExportSource

IMAGES_NAME = "images"
JPEG_QUALITY = 95
UPRIGHT = 1  # EXIF's orientation of an image that stands as it is stored


def image_names(source: ExportSource) -> list[str]:
    """Return the name of every frame's image, relative to the folder of images.

    That of the input image; frame 12 of sub/drive.mp4 is sub/drive/000012.jpg. When images are written, those of kinds
    that no other program reads get `.png` added.

    Raises:
        UserError: a name leads out of the folder, or two frames have the same.
    """
    names = [_exported_name(frame.name, source.options.write_images) for frame in source.cameras.frames]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"image {name} of scene {source.folder} lies outside its root; move or link it there"
            )
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UserError(f"scene {source.folder} has image {twice} twice, which this format cannot tell apart")
    return names


def put_images(
    source: ExportSource,
    names: list[str],
    folder: Path,
    place: Callable[[Path, Path], object] = shutil.copyfile,
) -> None:
    """Write the images below `folder`/images if the options ask for it; else note what is the matter with them.

    `place` gives a file that needs no change its new name too.

    Raises:
        UserError: an image that must be written is missing, damaged, or not of the size that the scene says.
    """
    if source.options.write_images:
        _write_images(source, names, folder / IMAGES_NAME, place)
        return
    frames = source.cameras.frames
    if any(VIDEO_FRAME.fullmatch(frame.name) for frame in frames):
        source.notes.append(
            "the images are frames of a video; --write-images writes them (or docs/export.md)"
        )
        return
    states = [_state(source.images_root / frame.name, frame.image_hw) for frame in frames]
    for state, advice in (
        ("missing", f"not in {source.images_root}; give --images DIR"),
        ("turned", "turned by EXIF, which most programs do not heed; --write-images writes them upright"),
        ("of another size", "of another size than the scene says; have they changed?"),
    ):
        if state in states:
            first = frames[states.index(state)].name
            source.notes.append(
                f"{states.count(state)} of {len(frames)} images (first: {first}) are {advice}"
            )
    if _has_lens(source):
        source.notes.append(
            "the cameras are those of undistorted images, yours have a lens; use --write-images (docs/export.md)"
        )


def _exported_name(name: str, is_written: bool) -> str:  # noqa: FBT001
    if match := VIDEO_FRAME.fullmatch(name):
        return f"{PurePosixPath(match[1]).with_suffix('').as_posix()}/{int(match[2]):06d}.jpg"
    return f"{name}.png" if is_written and not name.lower().endswith(IMAGE_SUFFIXES) else name


def _state(path: Path, image_hw: tuple[int, int]) -> str:
    """Return whether an image file is as it should be: "", "missing", "turned" or "of another size"."""
    try:
        with Image.open(path) as image:
            if image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT:
                return "turned"
            return "" if image.size == image_hw[::-1] else "of another size"
    except (OSError, ValueError, SyntaxError):
        return "missing"


def _cameras_file(source: ExportSource) -> Path | None:
    """Return the cameras.txt that the reconstruction was given, whose lenses it undid."""
    setting = source.cameras.info.recipe.get("input", {}).get("intrinsics")
    return Path(setting) if isinstance(setting, str) and setting.endswith(".txt") else None


def _has_lens(source: ExportSource) -> bool:
    return source.cameras.info.input.get("lens") is not None


def _write_images(
    source: ExportSource, names: list[str], folder: Path, place: Callable[[Path, Path], object]
) -> None:
    record = _record(source)
    if record.distortion is None and _has_lens(source):
        source.notes.append(
            "images of an index are written with the lens they have, which the cameras lack (docs/export.md)"
        )
    for index, (frame, name) in enumerate(zip(source.cameras.frames, names, strict=True)):
        path, target = record.root / frame.name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # What the cameras fit already is copied bit for bit.
        if name == frame.name and record.distortion is None and _state(path, frame.image_hw) == "":
            place(path, target)
            continue
        image = read_frame_image(record, index)
        if image.shape[:2] != frame.image_hw:
            raise UserError(
                f"image {path} has {image.shape[1]}x{image.shape[0]} pixels, the scene says "
                f"{frame.image_hw[1]}x{frame.image_hw[0]}; has it changed, or are --images others?"
            )
        Image.fromarray(image).save(target, quality=JPEG_QUALITY, subsampling=0)


def _record(source: ExportSource) -> SequenceRecord:
    """Return the input again, with the lens that the reconstruction undid."""
    record = source.cameras.input_record(source.images_root)
    path = _cameras_file(source)
    if path is None:
        return record
    if not path.is_file():
        raise UserError(
            f"{path}, whose lenses the reconstruction undid, is not there any more; bring it back"
        )
    return with_cameras(record, str(path))
