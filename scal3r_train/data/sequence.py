"""The three forms of a sequence: an index row, frames in memory, a training batch. The only place where
their fields, shapes and units are written down.

Shapes: B sequences, K chunks, S frames, H W pixels. Cameras are OpenCV (x right, y down, z forward);
`extrinsics` are cam_from_world [3, 4]; `intrinsics` [3, 3] are in pixels with pixel centres at half integers
(the centre of the top-left pixel is (0.5, 0.5)). Depth is the z coordinate in metres (or scene units), 0 = invalid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scal3r_train.data.pixel_map import PixelMap


@dataclass(frozen=True)
class SequenceRecord:
    """One row of an index: where a sequence's files are and what is known about its cameras. Arrays have S rows.

    root: folder that image, depth and mask paths are relative to (absolute once loaded).
    image: S paths. depth, mask: S paths, "" where a frame has none, or () when the sequence has none.
    depth_codec: name in `depth_codec.CODECS`, "" without depth.
    camera_model: "pinhole" or "" when unknown. intrinsics: [S, 4] float64 fx fy cx cy in pixels of the image
    file, or None when unknown. distortion: [S, D] float64, D = 0 for pinhole.
    pixel_centre: "half" or "integer", the coordinate of the top-left pixel's centre that cx, cy refer to.
    cam_from_world: [S, 3, 4] float64 or None when unknown. timestamp: [S] float64 seconds.
    image_size: [S, 2] int64 height, width of the image files. max_depth: depths beyond are invalid, 0 = no limit.
    """

    dataset: str
    sequence_id: str
    root: Path
    image: tuple[str, ...]
    image_size: np.ndarray
    timestamp: np.ndarray
    split: str = "train"
    depth: tuple[str, ...] = ()
    depth_codec: str = ""
    mask: tuple[str, ...] = ()
    camera_model: str = ""
    intrinsics: np.ndarray | None = None
    distortion: np.ndarray | None = None
    cam_from_world: np.ndarray | None = None
    pixel_centre: str = "half"
    is_ordered: bool = True
    is_metric: bool = False
    is_synthetic: bool = False
    is_dynamic: bool = False
    max_depth: float = 0.0
    licence: str = ""
    source: str = ""

    @property
    def num_frames(self) -> int:
        """S, the number of frames."""
        return len(self.image)


@dataclass(frozen=True)
class Frames:
    """Some frames of one sequence, decoded and resized to one size, in the order they were asked for.

    images [S, 3, H, W] float32 RGB in 0..1; intrinsics [S, 3, 3] float64 of the resized images, None when unknown;
    extrinsics [S, 3, 4] float64 cam_from_world, None when unknown; depth [S, H, W] float32 z-depth, 0 invalid (all
    zero for a frame without depth file), None for a sequence without depth; frame_indices [S] int64 into the
    sequence; timestamps [S] float64 seconds; pixel_map leads back to the input images' pixels.
    """

    images: Tensor
    intrinsics: Tensor | None
    extrinsics: Tensor | None
    depth: Tensor | None
    frame_indices: Tensor
    timestamps: Tensor
    pixel_map: PixelMap

    @property
    def num_frames(self) -> int:
        """S, the number of frames."""
        return self.images.shape[0]

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the resized images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]


@dataclass(frozen=True)
class SequenceBatch:
    """What one training step consumes on one rank: K chunks of S frames of each of B sequences, in temporal order.

    images [B, K, S, 3, H, W] float32 RGB in 0..1; depth [B, K, S, H, W] float32, 0 invalid;
    extrinsics [B, K, S, 3, 4] float32 cam_from_chunk: the chunk's coordinate frame is that of its reference frame,
    the temporal middle m = ceil(S / 2) - 1, whose extrinsics are therefore the identity; intrinsics [B, K, S, 3, 3]
    float32; chunk_mask [B, K] bool, False for padding chunks, which carry no weight; sequence_ids: B names.
    """

    images: Tensor
    depth: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    chunk_mask: Tensor
    sequence_ids: tuple[str, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch on another device."""
        return SequenceBatch(
            images=self.images.to(device, non_blocking=non_blocking),
            depth=self.depth.to(device, non_blocking=non_blocking),
            extrinsics=self.extrinsics.to(device, non_blocking=non_blocking),
            intrinsics=self.intrinsics.to(device, non_blocking=non_blocking),
            chunk_mask=self.chunk_mask.to(device, non_blocking=non_blocking),
            sequence_ids=self.sequence_ids,
        )
