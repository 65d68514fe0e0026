"""What is decoded of one frame for training: at no more resolution than is needed, and without depth if that is broken.

Shapes: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.frame_io import read_frame_depth, read_frame_image
from scal3r_train.data.sequence import SequenceRecord

REDUCTIONS = (8, 4, 2)  # of JPEG files while they are decoded; only whole ones, so that pixels stay in place


@dataclass(frozen=True)
class FramePixels:
    """One frame, undistorted and upright.

    Attributes:
        image: [H, W, 3] uint8, perhaps smaller than the file.
        depth: [H', W'] float32 z-depth, 0 invalid, -1 sky; None without.
        fault: why the frame goes without the depth that it should have; "" when all is well.
    """

    image: np.ndarray
    depth: np.ndarray | None
    fault: str = ""


def read_pixels(record: SequenceRecord, index: int, at_least: tuple[int, int]) -> FramePixels:
    """Decode a frame from its files.

    at_least: H, W that a larger image may be reduced to. Raises UserError naming the image file when it cannot be read
    or is not of the size that the index says.
    """
    hw = record.upright_hw(index)
    fitting = (
        n
        for n in REDUCTIONS
        if all(have % n == 0 and have >= n * want for have, want in zip(hw, at_least, strict=True))
    )
    image = read_frame_image(record, index, next(fitting, 1))
    if hw[0] * image.shape[1] != hw[1] * image.shape[0] or image.shape[0] > hw[0]:
        raise UserError(
            f"image {record.root / record.image[index]} has {image.shape[1]}x{image.shape[0]} pixels, the index says "
            f"{hw[1]}x{hw[0]}; index the data set again"
        )
    try:
        return FramePixels(image, read_frame_depth(record, index))
    except UserError as error:
        return FramePixels(image, None, str(error))
