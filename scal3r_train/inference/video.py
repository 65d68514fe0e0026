"""The frames that a reconstruction uses: which ones, at which size, read once and kept as 8-bit images.

Shapes: S frames, H W pixels. "Frame" numbers count the chosen frames; `frame_indices` lead to the input's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.frame_files import video_frame
from scal3r_train.data.frame_io import read_frames
from scal3r_train.data.pixel_map import PixelMap
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.transforms import ResizeRule
from scal3r_train.inference.scene import SceneFrame
from scal3r_train.inference.settings import InputSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig

FRAMES_PER_READ = 8
MAX_UINT8 = 255

Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, eq=False)
class VideoPart:
    """Consecutive frames in memory.

    Attributes:
        frames: their numbers.
        images: [S, 3, H, W] uint8 RGB.
        pixel_map: from the input's pixels to those of `images`.
    """

    frames: range
    images: Tensor
    pixel_map: PixelMap

    def images_of(self, frames: range) -> Tensor:
        """Return the images of some of the frames, sharing memory."""
        return self.images[frames.start - self.frames.start : frames.stop - self.frames.start]

    def input_intrinsics(self, frames: range, intrinsics: Tensor) -> Tensor:
        """Return intrinsics [S, 3, 3] of some frames' processed images in pixels of the input images."""
        part = slice(frames.start - self.frames.start, frames.stop - self.frames.start)
        whole = self.pixel_map
        return PixelMap(whole.scale[part], whole.offset[part], whole.input_hw[part]).input_intrinsics(
            intrinsics
        )


@dataclass(frozen=True, eq=False)
class Video:
    """A sequence and the choice of its frames.

    Attributes:
        record: the sequence.
        frame_indices: its frames that are used, ascending.
        image_hw: size at which they are processed.
    """

    record: SequenceRecord
    frame_indices: tuple[int, ...]
    image_hw: tuple[int, int]

    @staticmethod
    def choose(record: SequenceRecord, settings: InputSettings, model: Scal3RConfig) -> Video:
        """Return the frames and the size that the settings ask for.

        Raises:
            UserError: no frame is left, or the size is no multiple of the model's patch size.
        """
        first_hw = int(record.image_size[0, 0]), int(record.image_size[0, 1])
        rule = settings.resize or ResizeRule(size=model.image_size, multiple=model.patch_size)
        image_hw = settings.image_hw or rule.target_hw(first_hw)
        if any(side % model.patch_size for side in image_hw):
            raise UserError(
                f"images would be processed at {image_hw[0]}x{image_hw[1]}, which is no multiple of the model's "
                f"patch size {model.patch_size}; change input.image_hw or input.resize.multiple"
            )
        return Video(record, tuple(settings.frame_indices(record.num_frames)), image_hw)

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
        """The input image of every frame that is used."""
        sizes = self.record.image_size
        return tuple(
            SceneFrame(name=self.record.image[index], image_hw=(int(sizes[index, 0]), int(sizes[index, 1])))
            for index in self.frame_indices
        )

    def read(self, frames: range, track: Track = iter) -> VideoPart:
        """Return consecutive frames; at least one.

        Args:
            frames: their numbers.
            track: wraps the loop over reads, for progress.

        Raises:
            UserError: an image is missing, damaged or of a kind that is not read.
        """
        images, maps = [], []
        for start in track(frames[::FRAMES_PER_READ]):
            wanted = self.frame_indices[start : min(start + FRAMES_PER_READ, frames.stop)]
            part = read_frames(self.record, wanted, self.image_hw, with_depth=False)
            # Exact: images are decoded and resized as 8-bit numbers.
            images.append((part.images * MAX_UINT8).round().to(torch.uint8))
            maps.append(part.pixel_map)
        return VideoPart(frames, torch.cat(images), PixelMap.stack(maps))

    def images(self, frames: range) -> Tensor:
        """Return the images of consecutive frames, [S, 3, H, W] uint8."""
        return self.read(frames).images

    def input_intrinsics(self, frames: range, intrinsics: Tensor) -> Tensor:
        """Return intrinsics [S, 3, 3] of some frames' processed images in pixels of the input images."""
        return self.read(frames).input_intrinsics(frames, intrinsics)

    def describe(self) -> dict[str, Any]:
        """Return what names this input in scene.json; two inputs of equal files have equal `files_sha256`."""
        digest = hashlib.sha256()
        for index in self.frame_indices:
            name = self.record.image[index]
            frame = video_frame(self.record, name)
            path = self.record.root / name if frame is None else frame[0]
            size = path.stat().st_size if path.is_file() else 0
            digest.update(f"{name}:{size}\n".encode())
        return {
            "dataset": self.record.dataset,
            "sequence_id": self.record.sequence_id,
            "root": str(self.record.root),
            "num_frames": self.record.num_frames,
            "first_image_hw": [int(side) for side in self.record.image_size[0]],
            "files_sha256": digest.hexdigest(),
        }
