"""The frames of a training window that one rank needs: decoded, cropped and coloured; unreadable ones are reported.

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
from scal3r_train.data.camera.resize import ResizeAndCrop
from scal3r_train.data.io.frame_io import FramePixels, frame_camera
from scal3r_train.data.sequence import SequenceRecord, SkippedFrame
from scal3r_train.geometry.camera import intrinsics_matrices

Reader = Callable[[SequenceRecord, int, tuple[int, int]], FramePixels]


@dataclass(frozen=True)
class WindowFrames:
    """Some frames of a window.

    Attributes:
        images: [N, 3, H, W] uint8 RGB.
        depth: [N, H, W] float32, 0 invalid, -1 sky.
        intrinsics: [N, 3, 3] float64.
        extrinsics: [N, 3, 4] float64 cam_from_world.
        is_readable: [N] bool; the others hold nothing.
        reasons: by place, why a frame is not readable.
        skipped: frames that could not be read, or not with their depth.
    """

    images: Tensor
    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    is_readable: list[bool]
    reasons: dict[int, str]
    skipped: tuple[SkippedFrame, ...]


def read_window(
    record: SequenceRecord,
    frames: Sequence[int],
    size: tuple[int, int],
    look: WindowLook,
    reader: Reader,
) -> WindowFrames:
    """Read frames for training. One whose depth cannot be read goes without depth.

    Args:
        record: the sequence, with poses and intrinsics.
        frames: which of its frames, in the order of the window.
        size: H, W.
        look: zoom and colours.
        reader: gives a frame's pixels, not smaller than the size it is given if the file is not.

    Raises:
        UserError: a camera is not finite.
    """
    needed = math.ceil(size[0] * look.zoom), math.ceil(size[1] * look.zoom)
    images = torch.empty(len(frames), 3, *size, dtype=torch.uint8)
    depth = torch.zeros(len(frames), *size)
    intrinsics, extrinsics = np.ones((len(frames), 4)), np.zeros((len(frames), 3, 4))
    skipped: list[SkippedFrame] = []
    reasons: dict[int, str] = {}
    for place, frame in enumerate(frames):
        try:
            pixels = reader(record, frame, needed)
        except UserError as error:
            skipped.append(SkippedFrame(record.dataset, record.sequence_id, frame, str(error)))
            reasons[place] = str(error)
            continue
        if pixels.fault:
            skipped.append(SkippedFrame(record.dataset, record.sequence_id, frame, pixels.fault))
        camera = frame_camera(record, frame)
        assert camera.intrinsics is not None, "refused when the source was opened"
        assert camera.extrinsics is not None, "refused when the source was opened"
        for what, numbers in (("intrinsics", camera.intrinsics), ("extrinsics", camera.extrinsics)):
            if not np.isfinite(numbers).all():
                raise UserError(
                    f"{what} of sequence {record.sequence_id!r} contain NaN or infinity in frame {frame}; correct or "
                    "remove it (`scal3r data check` finds the frame)"
                )
        centre = float(camera.intrinsics[2]), float(camera.intrinsics[3])
        cover = ResizeAndCrop.around(record.upright_hw(frame), size, centre, look.zoom)
        image = look.coloured(cover.image_fast(pixels.image), frame)
        images[place] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if pixels.depth is not None:
            depth[place] = torch.from_numpy(np.ascontiguousarray(cover.depth(pixels.depth)))
        intrinsics[place], extrinsics[place] = cover.moved(camera.intrinsics), camera.extrinsics
    return WindowFrames(
        images=images,
        depth=depth,
        intrinsics=intrinsics_matrices(intrinsics),
        extrinsics=torch.from_numpy(extrinsics),
        is_readable=[place not in reasons for place in range(len(frames))],
        reasons=reasons,
        skipped=tuple(skipped),
    )


def readable_places(frames: WindowFrames, places: Sequence[int], max_skipped: float) -> list[int]:
    """Return the places of a chunk's frames, the nearest readable one of the chunk in place of a broken one.

    Decided within the chunk, so that the result does not depend on which ranks hold which chunks.

    Raises:
        UserError: more than the share `max_skipped` of the chunk's frames is broken; names the first.
    """
    good = [number for number, place in enumerate(places) if frames.is_readable[place]]
    num_broken = len(places) - len(good)
    if num_broken > max_skipped * len(places):
        broken = next(place for place in places if not frames.is_readable[place])
        raise UserError(
            f"{frames.reasons[broken]}; {num_broken} of {len(places)} frames of a chunk cannot be read"
        )
    return [places[min(good, key=lambda other: abs(other - number))] for number in range(len(places))]
