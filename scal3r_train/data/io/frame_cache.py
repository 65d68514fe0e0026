"""A local copy of frames, undistorted and shrunk, for data that lies on slow or remote storage.

Every frame is kept at one size, the smallest that covers `height` x `width`, and every use shrinks that copy further:
so pixels depend on the settings only and not on what the cache happens to hold. When the cache is full nothing more is
added, and nothing is thrown out: frames are drawn at random, so an old one is worth as much as a new one. Any number
of processes share a folder; files appear by renaming, their sizes are added up in one file under a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from scal3r_train.config import StrictModel, UserError, atomic_output
from scal3r_train.data.camera.resize import ResizeAndCrop
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import FramePixels, read_pixels
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import tell

TOTAL_FILE = "total_bytes"
SHARED_FACTS = (  # fields that decide the pixels of all frames of a sequence
    "depth_codec", "depth_scale", "mask_rule", "sky_mask_rule", "camera_model", "pixel_centre", "quarter_turns",
    "max_depth", "max_depth_percentile",
)  # fmt: skip


class CacheSettings(StrictModel):
    """The `data.cache` section of a training recipe."""

    folder: Path | None = Field(
        default=None, description="folder of the cache, on a fast local disk; null: no cache"
    )
    gigabytes: float = Field(default=100.0, gt=0, description="size at which nothing more is added [GB]")
    height: int = Field(
        default=518,
        ge=1,
        description="frames are kept at the smallest size that covers this height and `width` [pixels]",
    )
    width: int = Field(
        default=518,
        ge=1,
        description="frames are kept at the smallest size that covers this width; larger originals are shrunk, "
        "smaller ones kept [pixels]",
    )


class FrameCache:
    """Reads frames through a folder of shrunk copies."""

    def __init__(self, settings: CacheSettings) -> None:
        """Make the folder. Raises UserError when that is not possible."""
        assert settings.folder is not None
        self._settings, self._folder, self._is_reported = settings, settings.folder, False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache.folder {self._folder} cannot be made: {error.strerror}") from None

    def read(self, record: SequenceRecord, index: int, at_least: tuple[int, int]) -> FramePixels:
        """Return a frame from its copy, or from its own files, leaving a copy if there is room; as `read_pixels`.

        The copy's size does not depend on `at_least`.
        """
        path = self._path(record, index)
        try:
            held = load_file(path)
            return FramePixels(held["image"], held.get("depth"))
        except FileNotFoundError:
            pass
        except (OSError, SafetensorError):  # damaged: it is written again
            path.unlink(missing_ok=True)
        pixels = self._shrunk(read_pixels(record, index, record.upright_hw(index)))
        if not pixels.fault:
            self._keep(path, pixels)
        return pixels

    @property
    def num_bytes(self) -> int:
        """Size of all copies."""
        try:
            return int((self._folder / TOTAL_FILE).read_text(encoding="ascii") or 0)
        except (OSError, ValueError):
            return 0

    def _path(self, record: SequenceRecord, index: int) -> Path:
        """Name of a copy: whatever decides its pixels, and when its files were written, gives another one."""
        names = [
            column[index] if column else ""
            for column in (record.image, record.depth, record.mask, record.sky_mask)
        ]
        facts = {name: vars(record)[name] for name in SHARED_FACTS}
        numbers = [
            None if values is None else values[index].tolist()
            for values in (record.intrinsics, record.distortion, record.image_size)
        ]
        place = (
            str(record.root) if record.packed is None else [record.packed.location, record.packed.first_row]
        )
        sides = self._settings.height, self._settings.width
        written = [_written(record, name) for name in names]
        key = json.dumps([place, names, written, facts, numbers, sides])
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest[2:34]}.safetensors"

    def _shrunk(self, pixels: FramePixels) -> FramePixels:
        image, depth = pixels.image, pixels.depth
        hw = image.shape[0], image.shape[1]
        ratio = max(self._settings.height / hw[0], self._settings.width / hw[1])
        if ratio >= 1:
            return pixels
        size = round(hw[0] * ratio), round(hw[1] * ratio)
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        if depth is not None and depth.shape[0] > size[0]:
            depth = ResizeAndCrop(hw, size, 0, 0, size).depth(depth)
        return FramePixels(image, depth, pixels.fault)

    def _keep(self, path: Path, pixels: FramePixels) -> None:
        """Leave a copy if there is room. A cache that cannot be written is reported once and never ends a run."""
        tensors = {"image": np.ascontiguousarray(pixels.image)}
        if pixels.depth is not None:
            tensors["depth"] = np.ascontiguousarray(pixels.depth)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        try:
            if path.exists() or not self._claim(num_bytes):
                return
            try:
                with atomic_output(path) as temporary:
                    save_file(tensors, temporary)
            except BaseException:
                self._claim(-num_bytes)
                raise
        except (OSError, SafetensorError) as error:
            if not self._is_reported:
                self._is_reported = True
                tell(f"data.cache.folder {self._folder} cannot be written ({error}); going on without")

    def _claim(self, num_bytes: int) -> bool:
        """Add to the size of all copies if there is room."""
        file = os.open(self._folder / TOTAL_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            total = int(os.read(file, 32) or 0) + num_bytes
            if total > self._settings.gigabytes * 1e9:
                return False
            os.pwrite(file, b"%032d" % total, 0)
            return True
        finally:
            os.close(file)


def _written(record: SequenceRecord, name: str) -> int:
    """Time at which a file of a record was written, 0 when that is not known."""
    if not name:
        return 0
    video = video_frame(record, name)
    path = record.root if record.packed is not None else record.root / name if video is None else video[0]
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def require_room(settings: CacheSettings, height: int, width: int) -> None:
    """Raise UserError unless copies are large enough for frames of this size, zoom included."""
    if settings.folder is not None and (settings.height < height or settings.width < width):
        raise UserError(
            f"data.cache keeps frames of {settings.width}x{settings.height}, but steps need up to {width}x{height} "
            "(the largest resolution times data.augmentation.max_zoom); raise data.cache.width and height"
        )
