"""The frames of a training window that one rank needs: decoded, cropped, coloured; broken ones replaced and told.

Shapes: N frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.augmentation import WindowLook
from scal3r_train.data.frame_io import frame_camera
from scal3r_train.data.frame_pixels import FramePixels
from scal3r_train.data.sequence import SequenceRecord, SkippedFrame
from scal3r_train.data.transforms import Cover, intrinsics_matrices

Reader = Callable[[SequenceRecord, int, tuple[int, int]], FramePixels]


@dataclass(frozen=True)
class WindowFrames:
    """Some frames of a window.

    Attributes:
        images: [N, 3, H, W] uint8 RGB.
        depth: [N, H, W] float32, 0 invalid, -1 sky.
        intrinsics: [N, 3, 3] float64.
        extrinsics: [N, 3, 4] float64 cam_from_world.
        skipped: those that could not be read.
    """

    images: Tensor
    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    skipped: tuple[SkippedFrame, ...]


def read_window(
    record: SequenceRecord,
    frames: Sequence[int],
    size: tuple[int, int],
    look: WindowLook,
    max_skipped: float,
    reader: Reader,
) -> WindowFrames:
    """Read frames for training.

    A frame whose image cannot be read is replaced, camera and all, by the nearest of these frames that can; one whose
    depth cannot be read goes without depth. So a window keeps its shape and its geometry stays right.

    Args:
        record: the sequence, with poses and intrinsics.
        frames: which of its frames, in the order of the window.
        size: H, W.
        look: zoom and colours.
        max_skipped: share of the frames that may be replaced.
        reader: gives a frame's pixels, not smaller than the size it is given if the file is not.

    Raises:
        UserError: too many frames cannot be read; names the first.
    """
    needed = math.ceil(size[0] * look.zoom), math.ceil(size[1] * look.zoom)
    images = torch.empty(len(frames), 3, *size, dtype=torch.uint8)
    depth = torch.zeros(len(frames), *size)
    intrinsics, extrinsics = np.empty((len(frames), 4)), np.empty((len(frames), 3, 4))
    skipped: list[SkippedFrame] = []
    broken: list[int] = []
    for place, frame in enumerate(frames):
        try:
            pixels = reader(record, frame, needed)
        except UserError as error:
            skipped.append(SkippedFrame(record.dataset, record.sequence_id, frame, str(error)))
            broken.append(place)
            continue
        if pixels.fault:
            skipped.append(SkippedFrame(record.dataset, record.sequence_id, frame, pixels.fault))
        camera = frame_camera(record, frame)
        assert camera.intrinsics is not None, "refused when the source was opened"
        assert camera.extrinsics is not None, "refused when the source was opened"
        centre = float(camera.intrinsics[2]), float(camera.intrinsics[3])
        cover = Cover.around(record.upright_hw(frame), size, centre, look.zoom)
        image = look.coloured(cover.image_fast(pixels.image), frame)
        images[place] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if pixels.depth is not None:
            depth[place] = torch.from_numpy(np.ascontiguousarray(cover.depth(pixels.depth)))
        intrinsics[place], extrinsics[place] = cover.moved(camera.intrinsics), camera.extrinsics
    if len(broken) > max_skipped * len(frames):
        raise UserError(
            f"{skipped[0].reason}; {len(broken)} of {len(frames)} frames of this window of {record.sequence_id} "
            "cannot be read"
        )
    good = np.setdiff1d(np.arange(len(frames)), broken)
    for place in broken:
        nearest = good[np.argmin(np.abs(good - place))]
        images[place], depth[place] = images[nearest], depth[nearest]
        intrinsics[place], extrinsics[place] = intrinsics[nearest], extrinsics[nearest]
    return WindowFrames(
        images=images,
        depth=depth,
        intrinsics=intrinsics_matrices(intrinsics),
        extrinsics=torch.from_numpy(extrinsics),
        skipped=tuple(skipped),
    )
