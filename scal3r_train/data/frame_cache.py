"""A local copy of frames, undistorted and shrunk, for data that lies on slow or remote storage.

Every frame is kept at one size, the smallest that covers `height` x `width`, and every use shrinks that copy further:
so pixels depend on the settings only and not on what the cache happens to hold. When the cache is full nothing more is
added, and nothing is thrown out: frames are drawn at random, so an old one is worth as much as a new one. Any number
of processes share a folder; files appear by renaming, their sizes are added up in one file under a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from scal3r_train.config import StrictModel, UserError, atomic_output
from scal3r_train.data.frame_pixels import FramePixels, read_pixels
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.transforms import Cover

TOTAL_FILE = "total_bytes"


class CacheSettings(StrictModel):
    """The `data.cache` section of a training recipe."""

    folder: Path | None = Field(default=None, description="on a fast local disk; null: no cache")
    gigabytes: float = Field(default=100.0, gt=0, description="size at which nothing more is added")
    height: int = Field(
        default=518, ge=1, description="frames are kept at the smallest size that covers this"
    )
    width: int = Field(
        default=518, ge=1, description="and this; larger originals are shrunk, smaller ones kept"
    )


class FrameCache:
    """Reads frames through a folder of shrunk copies."""

    def __init__(self, settings: CacheSettings) -> None:
        """Make the folder. Raises UserError when that is not possible."""
        assert settings.folder is not None
        self._settings, self._folder = settings, settings.folder
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
        except (OSError, SafetensorError):  # not there, or damaged with the disk: it is written again
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
        """Name of a copy: another file, another time of writing or another size gives another copy."""
        source = record.root / record.image[index]
        try:
            changed = source.stat().st_mtime_ns
        except OSError:
            changed = 0
        sides = f"{self._settings.height}x{self._settings.width}"
        key = f"{source}:{changed}:{sides}:{record.depth_codec}:{record.camera_model}:{record.quarter_turns}"
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
            depth = Cover(hw, size, 0, 0, size).depth(depth)
        return FramePixels(image, depth, pixels.fault)

    def _keep(self, path: Path, pixels: FramePixels) -> None:
        tensors = {"image": np.ascontiguousarray(pixels.image)}
        if pixels.depth is not None:
            tensors["depth"] = np.ascontiguousarray(pixels.depth)
        if not self._claim(sum(tensor.nbytes for tensor in tensors.values())):
            return
        try:
            with atomic_output(path) as temporary:
                save_file(tensors, temporary)
        except OSError as error:
            raise UserError(f"data.cache.folder {self._folder} cannot be written: {error.strerror}") from None

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
