"""What a user may name as input: a folder of images, a video, or one sequence of an index."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.frame_files import VIDEO_SUFFIXES
from scal3r_train.data.image_codec import read_image_size
from scal3r_train.data.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.video_frames import presentation_times, read_video_frame

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def open_source(source: str | os.PathLike[str]) -> SequenceRecord:
    """The sequence that `source` names: an image folder, a video, or INDEX.parquet#sequence_id.

    `#sequence_id` may be left out when the index holds one sequence. Raises UserError for anything else.
    """
    text = os.fspath(source)
    path, _, sequence_id = text.partition("#") if ".parquet#" in text else (text, "", "")
    if path.endswith(".parquet"):
        index = load_index(path)
        if not sequence_id and len(index) != 1:
            raise UserError(f"{path} holds {len(index)} sequences; name one as {path}#sequence_id")
        return index.find(sequence_id) if sequence_id else index[0]
    if Path(path).is_dir():
        return record_from_images(Path(path))
    if not Path(path).exists():
        raise UserError(
            f"input {path} does not exist; give an image folder, a video or INDEX.parquet#sequence_id"
        )
    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        return record_from_video(Path(path))
    raise UserError(f"input {path} is neither an image folder nor a video nor an index; give one of these")


def record_from_images(folder: Path) -> SequenceRecord:
    """A sequence of all images of a folder (*.png, *.jpg, *.jpeg, *.bmp in any case), cameras unknown.

    Order: by name with numbers compared as numbers (frame2 before frame10), which for names of equal length is
    the plain order of letters. Timestamps are frame numbers. Raises UserError when the folder holds no images, or
    a depth map (by its name or because it is 16-bit).
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not paths:
        raise UserError(f"folder {folder} holds no images; put *{', *'.join(IMAGE_SUFFIXES)} files into it")
    paths.sort(key=lambda path: natural_key(path.name))
    for path in paths:
        if re.search(r"(?<![a-z])depth", path.name.lower()):
            raise UserError(f"{path} looks like a depth map; give a folder of colour images only")
    sizes = [read_image_size(path) for path in paths]
    return SequenceRecord(
        dataset="images",
        sequence_id=folder.resolve().name or "images",
        split="test",
        root=folder.resolve(),
        image=tuple(path.name for path in paths),
        image_size=np.array(sizes, np.int64),
        timestamp=np.arange(len(paths), dtype=np.float64),
        source=str(folder.resolve()),
    )


def record_from_video(path: Path) -> SequenceRecord:
    """A sequence of all frames of a video, cameras unknown; timestamps are the seconds at which frames are shown.

    The first frame is decoded for its size. Raises UserError when the video cannot be read.
    """
    path = path.resolve()
    times = presentation_times(path)
    size = read_video_frame(path, 0).shape[:2]
    return SequenceRecord(
        dataset="video",
        sequence_id=path.stem,
        split="test",
        root=path.parent,
        image=tuple(f"{path.name}#{number}" for number in range(len(times))),
        image_size=np.tile(size, (len(times), 1)),
        timestamp=times,
        source=str(path),
    )


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that compares digits as numbers; the name itself decides between 1 and 01."""
    parts = re.split(r"(\d+)", name)
    key = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
    return (*key, (2, 0, name))
