"""The three forms of a sequence: an index row, frames in memory, a training batch. The only place where
their fields, shapes and units are written down.

Shapes: B sequences, K chunks, S frames, H W pixels. Cameras are OpenCV (x right, y down, z forward);
`extrinsics` are cam_from_world [3, 4]; `intrinsics` [3, 3] are in pixels with pixel centres at half integers
(the centre of the top-left pixel is (0.5, 0.5)). Depth is the z coordinate in metres (or scene units),
0 = invalid, -1 = sky: only what is positive is depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.camera.resize import PixelMap
from scal3r_train.geometry.camera import fov_from_focal
from scal3r_train.notes import is_text


@dataclass(frozen=True)
class PackedFrames:
    """A run of rows of a Parquet file that holds a sequence's files, one row a frame (data_tools/pack.py).

    Attributes:
        location: path or URL of the file.
        first_row: row of the sequence's first frame.
    """

    location: str
    first_row: int


@dataclass(frozen=True)
class SequenceRecord:
    """One row of an index: where a sequence's files are and what is known about its cameras. Arrays have S rows.

    root: folder that image, depth and mask paths are relative to (absolute once loaded). `VIDEO#12` is frame 12 of a
    video file.
    image: S paths. depth, mask, sky_mask: S paths, "" where a frame has none, or () when the sequence has none.
    depth_codec: name in `depth_codec.CODECS`, "" without depth. depth_scale: multiplies decoded depth, for sets whose
    poses have another unit. max_depth: depths beyond are invalid, 0 = no limit. max_depth_percentile: so are those
    above this percentile of their frame, 0 = no limit.
    mask_rule, sky_mask_rule: which values of a mask file mark a pixel as not to be used or as sky: "below N" or
    "from N" (`io/image_codec.py`).
    camera_model: one of `camera_model.CAMERA_MODELS`, or "" when unknown. intrinsics: [S, 4] float64 fx fy cx cy in
    pixels of the image file, or None when unknown. distortion: [S, D] float64 coefficients, None for pinhole.
    pixel_centre: "half" or "integer", the coordinate of the top-left pixel's centre that cx, cy refer to.
    quarter_turns: how often the (undistorted) image is turned clockwise by 90 degrees to stand upright; cam_from_world
    and intrinsics are those of the camera as it is in the file.
    cam_from_world: [S, 3, 4] float64 or None when unknown. timestamp: [S] float64 seconds.
    image_size: [S, 2] int64 height, width of the image files. num_missing: frames that the data set lists but that are
    not there, left out.
    covisible: [S, N] int64, for unordered frames: those that see most of the same, best first, -1 where there are no
    more; None when unknown.
    packed: where the files are when they were packed into Parquet; their names are then COLUMN#FRAME. None: below root.
    decoded: S images [H, W, 3] uint8 RGB, upright, of a sequence that is in memory and not in files; never in an index.
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
    depth_scale: float = 1.0
    mask: tuple[str, ...] = ()
    mask_rule: str = ""
    sky_mask: tuple[str, ...] = ()
    sky_mask_rule: str = ""
    camera_model: str = ""
    intrinsics: np.ndarray | None = None
    distortion: np.ndarray | None = None
    cam_from_world: np.ndarray | None = None
    pixel_centre: str = "half"
    quarter_turns: int = 0
    covisible: np.ndarray | None = None
    num_missing: int = 0
    is_ordered: bool = True
    is_metric: bool = False
    is_synthetic: bool = False
    is_dynamic: bool = False
    max_depth: float = 0.0
    max_depth_percentile: float = 0.0
    licence: str = ""
    source: str = ""
    packed: PackedFrames | None = None
    decoded: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a name that is no UTF-8 text: scenes, indexes and reports could not hold it."""
        for column in ((self.dataset, self.sequence_id, str(self.root)), *self._file_columns()):
            if not is_text("".join(column)):
                name = next(name for name in column if not is_text(name))
                raise UserError(
                    f"{self.root / name}: its name is no UTF-8 text; rename it, e.g. with "
                    "`convmv -f latin1 -t utf8 -r --notest FOLDER`"
                )

    def _file_columns(self) -> tuple[tuple[str, ...], ...]:
        return self.image, self.depth, self.mask, self.sky_mask

    @property
    def num_frames(self) -> int:
        """S, the number of frames."""
        return len(self.image)

    def of_frames(self, frames: Sequence[int]) -> SequenceRecord:
        """Return the sequence of these frames alone, in their order; which of them see the same is forgotten."""
        kept = list(frames)
        changes: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                changes[name] = value[kept]
            elif isinstance(value, tuple) and value:
                changes[name] = tuple(value[frame] for frame in kept)
        return replace(self, **changes | {"covisible": None})

    def upright_hw(self, frame: int) -> tuple[int, int]:
        """Height and width of a frame once it stands upright."""
        height, width = (int(side) for side in self.image_size[frame])
        return (width, height) if self.quarter_turns % 2 else (height, width)


@dataclass(frozen=True)
class Frames:
    """Some frames of one sequence, decoded and resized to one size, in the order they were asked for.

    images [S, 3, H, W] float32 RGB in 0..1; intrinsics [S, 3, 3] float64 of the resized images, None when unknown;
    extrinsics [S, 3, 4] float64 cam_from_world, None when unknown; depth [S, H, W] float32 z-depth, 0 invalid (all
    zero for a frame without depth file), -1 sky, None for a sequence without depth; frame_indices [S] int64 into the
    sequence; timestamps [S] float64 seconds; pixel_map leads back to the pixels of
    the input images, undistorted and upright.
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
class SkippedFrame:
    """A frame that could not be read, or not with its depth: frame `index` of a sequence, and why."""

    dataset: str
    sequence_id: str
    index: int
    reason: str


@dataclass(frozen=True)
class SequenceBatch:
    """What one training step consumes on one rank: K chunks of S frames of each of B sequences, in temporal order.

    images [B, K, S, 3, H, W] uint8 RGB, a quarter of the bytes that floats would take to travel; depth [B, K, S, H, W]
    float32, 0 invalid, -1 sky; extrinsics [B, K, S, 3, 4] float32 cam_from_chunk: the chunk's coordinate frame is that
    of its reference frame, the temporal middle m = ceil(S / 2) - 1, whose extrinsics are therefore the identity;
    intrinsics [B, K, S, 3, 3] float32; chunk_mask [B, K] bool, False for padding chunks, which carry no weight;
    sequence_ids: B names; skipped: frames that could not be read.
    """

    images: Tensor
    depth: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    chunk_mask: Tensor
    sequence_ids: tuple[str, ...]
    skipped: tuple[SkippedFrame, ...] = ()

    def float_images(self) -> Tensor:
        """Images as the model takes them, [B, K, S, 3, H, W] float32 in 0..1."""
        return self.images.float() / 255

    def fov(self) -> Tensor:
        """Horizontal field of view of each chunk, [B, K] radians: of its frames' mean focal length; 1 of padding."""
        focal = self.intrinsics[..., 0, 0].mean(-1)
        angle = fov_from_focal(focal.clamp(min=1e-6), self.images.shape[-1])
        return torch.where(self.chunk_mask, angle, torch.ones_like(angle))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch on another device; from pinned memory `non_blocking` does not wait for the copy."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SequenceBatch:
        """The same batch in page-locked memory, from where a GPU copies it while the host goes on.

        torch's DataLoader looks for a method of this name: without it nothing of a batch of its own type is pinned.
        """
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> SequenceBatch:
        """The same batch with every tensor changed."""
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return SequenceBatch(**(vars(self) | changed))
