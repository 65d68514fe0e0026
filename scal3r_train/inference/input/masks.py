"""Masks of the input images: a folder of them, or those of the index.

A folder follows COLMAP's convention: black pixels are not used. The mask of `a/b.jpg` is, in this order, `a/b.jpg.png`,
`a/b.png` (`.jpg`, `.jpeg`), or a file called `b.jpg.png` or `b.png` anywhere in the folder; that of frame 12 of a video
is called by the number 12 (`000012.png`). In JPEG files, which blur, what is darker than half grey counts as black.

Shapes: H W pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import mask_as_read, read_frame_mask
from scal3r_train.data.io.image_codec import at_size, decode_mask
from scal3r_train.data.io.walk import found_below
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_file_bytes

MASK_SUFFIXES = (".png", ".jpg", ".jpeg")
PNG_BLACK, JPEG_BLACK = "below 1", "below 128"


class Masks:
    """Which pixels of a sequence's images count.

    Attributes:
        missing: frames that are used but have no mask: all their pixels count.
    """

    def __init__(
        self, record: SequenceRecord, frame_indices: tuple[int, ...], folder: Path | None, *, invert: bool
    ) -> None:
        """Find the masks.

        Raises:
            UserError: the folder holds no mask of any frame that is used.
        """
        self._record, self._invert = record, invert
        self._paths = {} if folder is None else _found(record, frame_indices, folder)
        has_masks = {
            index
            for names in (record.mask, record.sky_mask)
            if names
            for index in frame_indices
            if names[index]
        }
        self._used = frozenset(self._paths) | has_masks
        known = self._paths if folder is not None else has_masks
        self.missing = tuple(index for index in frame_indices if index not in known) if self._used else ()

    def __bool__(self) -> bool:
        """Whether any frame has a mask."""
        return bool(self._used)

    def path(self, index: int) -> Path | None:
        """File of the folder that belongs to a frame of the input."""
        return self._paths.get(index)

    def read(self, index: int) -> np.ndarray | None:
        """Return which pixels of a frame of the input count, [H, W] bool, undistorted and upright; None: all.

        Where the index has masks too, a pixel must count in both.

        Raises:
            UserError: the mask cannot be read, or is of another shape than its image.
        """
        valid = read_frame_mask(self._record, index)
        path = self._paths.get(index)
        if path is None:
            return valid
        try:
            data = read_file_bytes(path)
        except OSError as error:
            raise UserError(f"mask {path} cannot be read: {error.strerror}") from None
        black = decode_mask(data, PNG_BLACK if path.suffix.lower() == ".png" else JPEG_BLACK, path)
        height, width = self._record.image_size[index].tolist()
        if abs(black.shape[0] * width / height - black.shape[1]) > 1:
            raise UserError(
                f"mask {path} has {black.shape[1]}x{black.shape[0]} pixels, its image {width}x{height}: not the same "
                "shape; make masks of the images as they stand upright"
            )
        own = at_size(black if self._invert else ~black, (height, width))
        own = mask_as_read(self._record, index, own)
        return own if valid is None else own & valid


def _found(record: SequenceRecord, frame_indices: tuple[int, ...], folder: Path) -> dict[int, Path]:
    """Mask file of each frame that has one."""
    if not folder.is_dir():
        raise UserError(f"input.masks {folder} is no folder; give one with a mask for each image")
    files = found_below(
        folder, lambda name: Path(name).suffix.lower() in MASK_SUFFIXES and not name.startswith(".")
    )
    by_path = {path.relative_to(folder).as_posix(): path for path in files}
    count = Counter(path.name for path in files)
    by_name = {path.name: path for path in files if count[path.name] == 1}
    by_number = {int(path.stem): path for path in files if re.fullmatch(r"\d+", path.stem)}
    found = {}
    for index in frame_indices:
        name = record.image[index]
        if (frame := video_frame(record, name)) is not None:
            path = by_number.get(frame[1])
        else:
            wanted = _mask_names(name)
            path = next((by_path[key] for key in wanted if key in by_path), None) or next(
                (by_name[key] for key in (PurePosixPath(key).name for key in wanted) if key in by_name), None
            )
        if path is not None:
            found[index] = path
    if not found:
        example = record.image[frame_indices[0]]
        raise UserError(
            f"input.masks {folder} holds no mask of any image ({len(files)} .png and .jpg files); "
            f"that of {example} would be called {_example_name(record, example)}"
        )
    return found


def _mask_names(image: str) -> list[str]:
    without = image[: -len(PurePosixPath(image).suffix)] if PurePosixPath(image).suffix else image
    return [f"{image}.png", *(f"{without}{suffix}" for suffix in MASK_SUFFIXES)]


def _example_name(record: SequenceRecord, image: str) -> str:
    frame = video_frame(record, image)
    return PurePosixPath(image).with_suffix(".png").name if frame is None else f"{frame[1]:06d}.png"
