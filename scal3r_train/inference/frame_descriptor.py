"""One vector per frame for place recognition, from what a reconstruction holds anyway.

Shapes: S frames, N patches of a frame (row-major), C channels, D numbers of a descriptor, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

NUM_BANDS = 3
THUMBNAIL_SIDE = 64


def frame_descriptor(patch_tokens: Tensor) -> Tensor:
    """Return mean and standard deviation of a frame's patch tokens in three bands, [S, 6C] float32 on their device.

    The bands are the upper, middle and lower third of the patches (with fewer than three patches, one band each).
    They keep what is above what, which a place seen again shares, and forget what is left of what, which changes
    with the camera's heading. Meant for the output of the patch encoder: it depends on the frame alone, not on its
    chunk (the "correlation" encoder apart). Compare descriptors as `descriptor_space` does, never raw.

    Args:
        patch_tokens: [S, N, C] of any floating dtype, without special tokens.
    """
    bands = patch_tokens.float().tensor_split(min(NUM_BANDS, patch_tokens.shape[1]), dim=1)
    parts = [(band.mean(dim=1), band.std(dim=1, correction=0)) for band in bands]
    return torch.cat([part for pair in parts for part in pair], dim=1)


def thumbnail_descriptor(images: Tensor) -> Tensor:
    """Return grey thumbnails of 64 x 64 without their mean and of unit norm, [S, 4096] float32 (SPEC 7.1).

    A uniform image gives zeros, which resemble nothing.

    Args:
        images: [S, 3, H, W] uint8 RGB.
    """
    thumbnails = np.empty((len(images), THUMBNAIL_SIDE**2), np.float32)
    for row, image in zip(thumbnails, images.cpu(), strict=True):
        grey = cv2.cvtColor(np.ascontiguousarray(image.movedim(0, -1).numpy()), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
        row[:] = small.reshape(-1)
    descriptors = torch.from_numpy(thumbnails)
    return torch.nn.functional.normalize(descriptors - descriptors.mean(dim=1, keepdim=True), dim=1)
