"""The frames that a reconstruction uses: which ones, at which size, with what is known of them.

Images are 8-bit and come through a bounded cache: decoded ahead, and again when they are needed after others took
their place. "Frame" numbers count the chosen frames; `frame_indices` lead to the input's.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.camera.resize import PixelMap, ResizeAndCrop, ResizeRule
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.frame_io import frame_camera, read_frame_image
from scal3r_train.data.known_cameras import with_cameras
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import fov_from_focal, intrinsics_matrices
from scal3r_train.inference.input.image_cache import ImageCache
from scal3r_train.inference.input.image_times import has_times, with_times
from scal3r_train.inference.input.masks import Masks
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.scene.scene import SceneFrame

BYTES_PER_GIB = 2**30
MUCH_CUT = 0.25  # fraction of an image that falls away when it is cut to the common shape
ZOOM = 0.01  # relative difference of focal lengths that one camera does not have


class TakesImages(Protocol):
    """What a model says of its images: `Scal3RConfig`."""

    @property
    def image_size(self) -> int:
        """Long side in pixels where nothing else is asked for."""

    @property
    def patch_size(self) -> int:
        """Of which both sides must be multiples."""


@dataclass(frozen=True, eq=False)
class Video:
    """A sequence, the choice of its frames, and their images, masks and known cameras.

    Attributes:
        record: the sequence, with times and cameras as the settings have them.
        frame_indices: its frames that are used, ascending.
        image_hw: size at which they are processed.
        masks_of_input: which pixels of its images count.
        has_known_intrinsics: whether the settings give the cameras.
    """

    record: SequenceRecord
    frame_indices: tuple[int, ...]
    image_hw: tuple[int, int]
    masks_of_input: Masks
    has_known_intrinsics: bool
    _resize_multiple: int
    _cache: ImageCache

    @staticmethod
    def choose(record: SequenceRecord, settings: InputSettings, model: TakesImages) -> Video:
        """Return the frames and the size that the settings ask for, of images for a model (its configuration).

        Raises:
            UserError: no frame is left, the size is no multiple of the model's patch size, or times, masks or cameras
                do not fit the images.
        """
        if settings.timestamps is not None:
            record = with_times(record, settings.timestamps)
        if settings.needs_times and not has_times(record):
            raise UserError(
                "input.start_s, stop_s and fps need time stamps, which this input does not have; give input.timestamps"
            )
        indices = tuple(settings.frame_indices(record.num_frames, record.timestamp))
        if settings.intrinsics is not None:
            record = with_cameras(record, settings.intrinsics)
        first_hw = record.upright_hw(0)
        rule = settings.resize or ResizeRule(size=model.image_size, multiple=model.patch_size)
        image_hw = settings.image_hw or rule.target_hw(first_hw)
        if any(side % model.patch_size for side in image_hw):
            raise UserError(
                f"images would be processed at {image_hw[0]}x{image_hw[1]}, which is no multiple of the model's "
                f"patch size {model.patch_size}; change input.image_hw or input.resize.multiple"
            )
        multiple = 1 if settings.image_hw else rule.cover_multiple
        masks = Masks(record, indices, settings.masks, invert=settings.invert_masks)
        # Two threads would make one decoder jump to and fro.
        num_threads = 1 if video_frame(record, record.image[0]) else settings.read_threads
        cache = ImageCache(
            lambda frame: _read_image(record, indices[frame], image_hw, multiple),
            image_hw,
            settings.cache_gib * BYTES_PER_GIB,
            num_threads,
        )
        return Video(record, indices, image_hw, masks, settings.intrinsics is not None, multiple, cache)

    @property
    def num_frames(self) -> int:
        """How many frames are used."""
        return len(self.frame_indices)

    @property
    def timestamps(self) -> Tensor:
        """[S] float64 seconds, or the input's frame numbers where it has no times."""
        return torch.as_tensor(self.record.timestamp[list(self.frame_indices)], dtype=torch.float64)

    @property
    def scene_frames(self) -> tuple[SceneFrame, ...]:
        """The input image of every frame that is used, its size that of the upright image."""
        return tuple(
            SceneFrame(name=self.record.image[index], image_hw=self.record.upright_hw(index))
            for index in self.frame_indices
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the input, one line each."""
        notes = []
        if self.record.num_missing:
            notes.append(
                f"{self.record.num_missing} frames of the input are lost or damaged; going on without them"
            )
        if missing := self.masks_of_input.missing:
            notes.append(
                f"{len(missing)} of {self.num_frames} frames have no mask (first: {self.record.image[missing[0]]}); "
                "all their pixels are used"
            )
        cut = [self._cut_fraction(index) for index in self.frame_indices]
        if num_cut := sum(fraction > MUCH_CUT for fraction in cut):
            notes.append(
                f"{num_cut} of {self.num_frames} images lose up to {max(cut):.0%} of their area when cut to the shape "
                f"of the first, {self.image_hw[1]}x{self.image_hw[0]}"
            )
        return tuple(notes)

    def images(self, frames: range) -> Tensor:
        """Return the images of consecutive frames [S, 3, H, W] uint8 RGB, in memory of their own; at least one.

        Raises:
            UserError: an image is missing, damaged, of a kind that is not read, or no longer of the size it had.
        """
        return self._cache.stacked(frames)

    def prefetch(self, frames: range) -> None:
        """Begin to decode images in the background; what goes wrong is reported by `images`."""
        self._cache.prefetch(frames)

    def at_processed_size(self, frame: int, depth: np.ndarray) -> np.ndarray:
        """Return depth [h, w] of a frame's upright image, of any resolution, in the pixels of `images` [H, W]."""
        return self._resize(self.frame_indices[frame]).depth(depth)

    def pixel_map_of(self, frames: Sequence[int]) -> PixelMap:
        """Return the map from pixels of the input images to those of `images`; nothing is decoded."""
        return PixelMap.stack([self._resize(self.frame_indices[frame]).pixel_map() for frame in frames])

    def input_intrinsics(self, frames: range, intrinsics: Tensor) -> Tensor:
        """Return intrinsics [S, 3, 3] of processed images in pixels of the input images, undistorted and upright."""
        return self.pixel_map_of(frames).input_intrinsics(intrinsics)

    def known_intrinsics(self, frames: Sequence[int]) -> Tensor | None:
        """Return the cameras that the settings give, [S, 3, 3] float64 in pixels of `images`; None without."""
        if not self.has_known_intrinsics:
            return None
        rows = [frame_camera(self.record, self.frame_indices[frame]).intrinsics for frame in frames]
        matrices = intrinsics_matrices(np.stack([row for row in rows if row is not None]))
        return self.pixel_map_of(frames).processed_intrinsics(matrices)

    def known_fov(self) -> float | None:
        """Return the horizontal field of view of `images` in radians, if the settings give it and all frames share it.

        Frames whose focal lengths differ by more than 1 % share none: somebody zoomed.
        """
        intrinsics = self.known_intrinsics(range(self.num_frames))
        if intrinsics is None:
            return None
        focal = intrinsics[:, 0, 0]
        if focal.max() > focal.min() * (1 + ZOOM):
            return None
        return fov_from_focal(focal.mean(), self.image_hw[1]).item()

    def masks(self, frames: Sequence[int]) -> Tensor | None:
        """Return which pixels of `images` count, [S, H, W] bool, nearest values; None when no frame has a mask.

        Raises:
            UserError: a mask is missing, damaged or of another shape than its image.
        """
        if not self.masks_of_input:
            return None
        result = torch.ones(len(frames), *self.image_hw, dtype=torch.bool)
        for place, frame in enumerate(frames):
            index = self.frame_indices[frame]
            valid = self.masks_of_input.read(index)
            if valid is not None:
                result[place] = torch.from_numpy(self._resize(index).depth(valid).copy())
        return result

    def close(self) -> None:
        """Stop decoding ahead and free the images."""
        self._cache.close()

    def describe(self) -> dict[str, Any]:
        """Return what names this input in scene.json; two inputs of equal files have equal `files_sha256`.

        `lens` is the camera model whose distortion is undone on load, None where there is none to undo.
        """
        digest = hashlib.sha256()
        for index in self.frame_indices:
            name = self.record.image[index]
            frame = video_frame(self.record, name)
            if self.record.decoded is not None:
                digest.update(self.record.decoded[index].tobytes())
            path = self.record.root / name if frame is None else frame[0]
            size = path.stat().st_size if path.is_file() else 0
            digest.update(f"{name}:{size}:{float(self.record.timestamp[index])!r}\n".encode())
            if (mask := self.masks_of_input.path(index)) is not None:
                digest.update(f"{mask.name}:{mask.stat().st_size}\n".encode())
            if self.has_known_intrinsics:
                digest.update(f"{frame_camera(self.record, index).intrinsics}\n".encode())
        return {
            "dataset": self.record.dataset,
            "sequence_id": self.record.sequence_id,
            "root": str(self.record.root),
            "num_frames": self.record.num_frames,
            "lens": None if self.record.distortion is None else self.record.camera_model,
            "first_image_hw": [int(side) for side in self.record.image_size[0]],
            "files_sha256": digest.hexdigest(),
        }

    def _resize(self, index: int) -> ResizeAndCrop:
        return ResizeAndCrop.plan(self.record.upright_hw(index), self.image_hw, self._resize_multiple)

    def _cut_fraction(self, index: int) -> float:
        height, width = self._resize(index).resized_hw
        return 1 - self.image_hw[0] * self.image_hw[1] / (height * width)


def _read_image(record: SequenceRecord, index: int, image_hw: tuple[int, int], multiple: int) -> Tensor:
    """Decode a frame of the input and bring it to a size [3, H, W] uint8; UserError naming its file."""
    image = read_frame_image(record, index)
    hw = record.upright_hw(index)
    if image.shape[:2] != hw:
        raise UserError(
            f"image {record.root / record.image[index]} has {image.shape[1]}x{image.shape[0]} pixels, it should have "
            f"{hw[1]}x{hw[0]}; has it changed since it was listed?"
        )
    resized = ResizeAndCrop.plan(hw, image_hw, multiple).image(image)
    return torch.from_numpy(resized.transpose(2, 0, 1).copy())
