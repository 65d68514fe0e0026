"""The images of a call: with all their leading axes, or refused in one line.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NestedChunks = Sequence[Sequence[Tensor]]

# RGB lies in [0, 1]; resampling may overshoot. Images of 0..255, of [-1, 1] and without ImageNet's mean lie outside.
LOWEST, HIGHEST = -0.5, 1.5
REMEDY = "give RGB in [0, 1] as floating point (uint8 images: images.float() / 255)"
AXES = {4: "[S, 3, H, W]", 5: "[K, S, 3, H, W]", 6: "[B, K, S, 3, H, W]"}


def checked_pixel_values(pixel_values: Tensor | NestedChunks) -> Tensor | NestedChunks:
    """Return the images of a call: a tensor as [B, K, S, 3, H, W], nested lists as they are.

    Args:
        pixel_values: [B, K, S, 3, H, W], one sequence [K, S, 3, H, W], one chunk [S, 3, H, W], or one list of chunks
            [S, 3, H, W] per sequence.

    Raises:
        ValueError: the shape is another, an axis is empty, the values are integers or, on the CPU, clearly outside of
            [0, 1]. Values on other devices are not looked at: the host would have to wait for them.
    """
    if isinstance(pixel_values, Tensor):
        shape = list(pixel_values.shape)
        if len(shape) not in AXES or shape[-3] != 3 or 0 in shape:
            known = " or ".join(AXES.values())
            raise ValueError(f"pixel_values must be non-empty {known}, got {shape}")
        _refuse_other_units(pixel_values, "pixel_values")
        return pixel_values[(None,) * (6 - len(shape))]
    for sequence, chunks in enumerate(pixel_values):
        for place, chunk in enumerate(chunks):
            name = f"pixel_values of sequence {sequence} chunk {place}"
            if chunk.dim() != 4 or chunk.shape[1] != 3 or 0 in chunk.shape:
                raise ValueError(f"{name} must be non-empty {AXES[4]}, got {list(chunk.shape)}")
            _refuse_other_units(chunk, name)
    return pixel_values


def _refuse_other_units(images: Tensor, name: str) -> None:
    if not images.is_floating_point():
        raise ValueError(f"{name} are {images.dtype}: {REMEDY}")
    # Tensors that stand for others (planning, export) have no values to look at.
    if images.device.type != "cpu" or type(images) is not Tensor or torch.compiler.is_compiling():
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if low < LOWEST or high > HIGHEST:
        raise ValueError(
            f"{name} lie in [{low:.3g}, {high:.3g}]: {REMEDY}; mean and deviation are removed by the model"
        )
