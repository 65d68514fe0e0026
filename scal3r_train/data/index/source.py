"""What a user may name as input: a folder of images, a video, or one sequence of an index; from Python also images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_files import VIDEO_SUFFIXES
from scal3r_train.data.io.image_codec import (
    HEIF_SUFFIXES,
    DamagedImageError,
    knows_heif,
    read_image,
    read_image_size,
)
from scal3r_train.data.io.images_in_memory import Picture, decoded_picture, each_picture, is_picture
from scal3r_train.data.io.left_out import DAMAGED, IMAGE, Cause, leave_out
from scal3r_train.data.io.video_frames import (
    num_lost_frames,
    presentation_times,
    read_video_frame,
    video_notes,
)
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import is_text, note
from scal3r_train.parallel.process import launched_rank
from scal3r_train.shipped import find_clip

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# What cameras and people call pictures, read here or not.
PICTURE_SUFFIXES = (
    *HEIF_SUFFIXES, ".avif", ".jxl", ".jp2", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2",
    ".exr", ".hdr", ".ppm", ".pgm",
)  # fmt: skip
# What people call the folder of the pictures, and what lies in others beside it.
IMAGE_FOLDERS = ("images", "image", "rgb", "color", "colour", "image_2", "frames")
OTHER_CONTENT = re.compile(r"(?i)depth|disp|mask|normal|conf|segment|label")
SECONDS_NAME = re.compile(r"\d+\.\d+")
Name: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = Name | SequenceRecord | Picture | Sequence[Name | Picture]


def sequence_of(images: Images) -> SequenceRecord:
    """The sequence that somebody gives in Python, cameras unknown but for what an index says.

    Args:
        images: what `open_source` takes; image files in the order given; pictures in memory, as
            `data/io/images_in_memory.py` takes them, one array for several or a list; files and pictures mixed.

    Raises:
        UserError: they are none of these, or one cannot be used; the line names it.
    """
    if isinstance(images, SequenceRecord):
        return images
    if isinstance(images, str | os.PathLike) and not (is_image_name(str(images)) and Path(images).is_file()):
        return open_source(images)
    given = [images] if isinstance(images, str | os.PathLike) or is_picture(images) else images
    if not isinstance(given, Iterable):
        raise UserError(f"images are a {type(images).__name__}; give a folder, a video, or a list of images")
    items = [item for one in given for item in (each_picture(one) if is_picture(one) else [one])]
    if not items:
        raise UserError("no images are given")
    for place, item in enumerate(items):
        if not (is_picture(item) or isinstance(item, str | os.PathLike)):
            raise UserError(
                f"image {place} is a {type(item).__name__}; give a path, a PIL image, an array or a tensor"
            )
    paths = [Path(item) for item in items if isinstance(item, str | os.PathLike)]
    return _record_of_files(paths) if len(paths) == len(items) else _record_of_pictures(items)


def _record_of_files(paths: Sequence[Path]) -> SequenceRecord:
    """A sequence of image files anywhere, in the order given."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    sizes = [read_image_size(path) for path in absolute]
    folder = Path(os.path.commonpath([path.parent for path in absolute]))
    return record_of_images(folder, [path.relative_to(folder).as_posix() for path in absolute], sizes)


def _record_of_pictures(items: Sequence[Name | Picture]) -> SequenceRecord:
    """A sequence of images in memory; files among them are read now."""
    decoded = tuple(
        read_image(Path(item))
        if isinstance(item, str | os.PathLike)
        else decoded_picture(item, f"image {place}")
        for place, item in enumerate(items)
    )
    return SequenceRecord(
        dataset="images",
        sequence_id="memory",
        split="test",
        root=Path(),
        image=tuple(f"{place:06d}" for place in range(len(decoded))),
        image_size=np.array([image.shape[:2] for image in decoded], np.int64),
        timestamp=np.arange(len(decoded), dtype=np.float64),
        decoded=decoded,
    )


def names_index(source: str) -> bool:
    """Return whether `source` is INDEX.parquet or INDEX.parquet#sequence_id."""
    return ".parquet#" in source or source.endswith(".parquet")


def open_source(source: str | os.PathLike[str]) -> SequenceRecord:
    """The sequence that `source` names: an image folder, a video, or INDEX.parquet#sequence_id.

    `#sequence_id` may be left out when the index holds one sequence. A clip that comes with the package is found by
    name, as `clips/circuit`. Raises UserError for anything else.
    """
    text = os.fspath(source)
    if not is_text(text):
        raise UserError(f"input {text}: its name is no UTF-8 text; rename it")
    path, _, sequence_id = text.partition("#") if ".parquet#" in text else (text, "", "")
    if path.endswith(".parquet"):
        index = load_index(path)
        if not sequence_id and len(index) != 1:
            raise UserError(f"{path} holds {len(index)} sequences; name one as {path}#sequence_id")
        return index.find(sequence_id) if sequence_id else index[0]
    if find_clip(path).is_dir():
        return record_from_images(find_clip(path))
    if not Path(path).exists():
        raise UserError(
            f"input {path} does not exist; give an image folder, a video or INDEX.parquet#sequence_id"
        )
    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        return record_from_video(Path(path))
    raise UserError(f"input {path} is neither an image folder nor a video nor an index; give one of these")


def record_from_images(folder: Path) -> SequenceRecord:
    """A sequence of all images of a folder (IMAGE_SUFFIXES in any case), cameras unknown; hidden files are left out.

    A folder that holds none but has one folder of images (beside depth maps and masks, say) stands for that one.

    Order: by name with numbers compared as numbers (frame2 before frame10), which for names of equal length is
    the plain order of letters. Timestamps are frame numbers, but where all names are seconds with a fraction, as in
    TUM's sets, they are these, and the order is theirs. Raises UserError when the folder holds no images, or a depth
    map (by its name or because it is 16-bit).
    """
    paths = [path for path in folder.iterdir() if is_image_name(path.name) and path.is_file()]
    if not paths:
        inner = folders_of_images(folder)
        if len(inner) != 1:
            raise UserError(f"folder {folder} holds no images; {_advice(folder, inner)}")
        _note(f"{folder} holds no images itself; those of {inner[0].name}/ are taken")
        return replace(record_from_images(inner[0]), sequence_id=folder.resolve().name or "images")
    _note_left_out(folder)
    sizes: dict[str, tuple[int, int]] = {}
    damaged: dict[str, DamagedImageError] = {}
    for name in in_order(path.name for path in paths):
        try:
            sizes[name] = read_image_size(folder / name)
        except DamagedImageError as error:
            damaged[name] = error
    if not sizes:
        raise next(iter(damaged.values()))
    leave_out(DAMAGED, list(damaged), folder, IMAGE)
    record = record_of_images(folder, list(sizes), list(sizes.values()))
    return replace(record, num_missing=len(damaged))


def record_of_images(folder: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> SequenceRecord:
    """A sequence of images of a folder in the order given, as `record_from_images`; sizes are upright (H, W)."""
    for name in names:
        if re.search(r"(?<![a-z])depth", name.lower()):
            raise UserError(f"{folder / name} looks like a depth map; give a folder of colour images only")
    times = [float(Path(name).stem) for name in names] if _are_times(names) else range(len(names))
    return SequenceRecord(
        dataset="images",
        sequence_id=folder.resolve().name or "images",
        split="test",
        root=folder.resolve(),
        image=tuple(names),
        image_size=np.array(sizes, np.int64),
        timestamp=np.array(times, np.float64),
        source=str(folder.resolve()),
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Names of images in the order of their sequence: by time where all are seconds, else by `natural_key`."""
    ordered = sorted(names, key=natural_key)
    return sorted(ordered, key=lambda name: float(Path(name).stem)) if _are_times(ordered) else ordered


def _are_times(names: Iterable[str]) -> bool:
    return all(SECONDS_NAME.fullmatch(Path(name).stem) for name in names)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image that is read; `._a.jpg` is not, which macOS leaves beside `a.jpg`."""
    if name.startswith("."):
        return False
    lower = name.lower()
    return lower.endswith(IMAGE_SUFFIXES) or (lower.endswith(HEIF_SUFFIXES) and knows_heif())


def _note_left_out(folder: Path) -> None:
    """Say how many pictures of other kinds lie among the images, for each kind with one for an example."""
    others: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in PICTURE_SUFFIXES and not path.name.startswith(".") and not is_image_name(path.name):
            others.setdefault(suffix, []).append(path.name)
    for suffix, names in others.items():
        leave_out(unread_kind(suffix), names, folder, f"{suffix} file")


def unread_kind(suffix: str) -> Cause:
    """Return why a picture of a kind that is not read is left out."""
    how = "pip install 'scal3r_train[data]' or convert them" if suffix in HEIF_SUFFIXES else "convert them"
    return Cause("", f"{how} to JPEG")


def _note(line: str) -> None:
    """Tell the user; of several processes of a run the first speaks."""
    if launched_rank() == 0:
        note(line)


def folders_of_images(folder: Path) -> list[Path]:
    """Return the folders in a folder that hold pictures: those with a usual name if there are any, else all.

    Depth maps, masks and the like are none, by their folder's name or because they are 16-bit.
    """
    below = [
        path for path in sorted(folder.iterdir()) if path.is_dir() and not OTHER_CONTENT.search(path.name)
    ]
    found = [path for path in below if _holds_pictures(path)]
    usual = [path for path in found if path.name.lower() in IMAGE_FOLDERS]
    return usual or found


def _holds_pictures(folder: Path) -> bool:
    try:
        first = min((path for path in folder.iterdir() if is_image_name(path.name)), default=None)
        return first is not None and bool(read_image_size(first))
    except (OSError, UserError):
        return False


def _advice(folder: Path, inner: Sequence[Path]) -> str:
    """What to do about a folder without images."""
    if inner:
        return f"did you mean {' or '.join(map(str, inner[:3]))}?"
    wanted = f"put *{', *'.join(IMAGE_SUFFIXES)} files into it"
    others = Counter(
        path.suffix.lower() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    if not others:
        return wanted
    suffix, num = others.most_common(1)[0]
    if suffix in HEIF_SUFFIXES:
        return f"it holds {num} {suffix} files; pip install 'scal3r_train[data]' to read them"
    return f"it holds {num} {suffix or 'other'} files; {wanted}"


def record_from_video(path: Path) -> SequenceRecord:
    """A sequence of all frames of a video, cameras unknown; timestamps are the seconds at which frames are shown.

    The first frame is decoded for its size. Of a video that was cut off, the frames that are left are taken, and
    `num_missing` counts those known to be missing. Raises UserError when the video cannot be read.
    """
    path = path.resolve()
    times = presentation_times(path)
    for line in video_notes(path):
        _note(f"{path.name}: {line}")
    size = read_video_frame(path, 0).shape[:2]
    return SequenceRecord(
        dataset="video",
        sequence_id=path.stem,
        split="test",
        root=path.parent,
        image=tuple(f"{path.name}#{number}" for number in range(len(times))),
        image_size=np.tile(size, (len(times), 1)),
        timestamp=times,
        num_missing=num_lost_frames(path),
        source=str(path),
    )


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that compares digits as numbers; the name itself decides between 1 and 01."""
    parts = re.split(r"(\d+)", name)
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
    return (*key, (2, 0, name))
