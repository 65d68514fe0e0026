"""Pictures that are in memory already, as upright 8-bit RGB: Pillow's images, arrays and tensors.

Arrays are [H, W, 3] or [3, H, W], with one or four channels too, or grey [H, W]; uint8, bool, or floating point in
[0, 1], which is rounded to 8 bits. Transparency is laid over black, as that of files. Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import pixels_of

Picture: TypeAlias = Image.Image | np.ndarray | Tensor
CHANNELS = (1, 3, 4)
MAX_UINT8 = 255


def is_picture(value: Any) -> TypeGuard[Picture]:
    """Whether `decoded_picture` or, of several at once, `each_picture` takes it."""
    return isinstance(value, Image.Image | np.ndarray | Tensor)


def each_picture(pictures: Picture) -> Iterator[Picture]:
    """Yield the pictures of an array or tensor [S, H, W, 3] or [S, 3, H, W], or the one that is given."""
    if isinstance(pictures, np.ndarray | Tensor) and pictures.ndim == 4:
        yield from pictures
    else:
        yield pictures


def decoded_picture(picture: Picture, name: str) -> np.ndarray:
    """Return [H, W, 3] uint8 RGB in memory of its own.

    Channels lie where an axis of 1, 3 or 4 is: of two such, last in an array and first in a tensor, as is their habit.

    Raises:
        UserError: shape, type or range are none of those above; the line calls the picture `name`.
    """
    if isinstance(picture, Image.Image):
        return pixels_of(picture, name).copy()
    first = isinstance(picture, Tensor)
    values = picture.detach().cpu() if isinstance(picture, Tensor) else picture
    if isinstance(values, Tensor):
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    channels = _channels_last(values, name, prefers_first=first)
    eight_bit = _eight_bit(channels, name)
    if eight_bit.shape[-1] == 3:
        return eight_bit.copy()
    flat = eight_bit[..., 0] if eight_bit.shape[-1] == 1 else eight_bit
    return pixels_of(Image.fromarray(np.ascontiguousarray(flat)), name).copy()


def _channels_last(values: np.ndarray, name: str, *, prefers_first: bool) -> np.ndarray:
    if values.ndim == 2:
        values = values[..., None]
    has_last, has_first = (values.ndim == 3 and values.shape[axis] in CHANNELS for axis in (-1, 0))
    if not (has_last or has_first) or 0 in values.shape:
        raise UserError(
            f"{name} has shape {list(values.shape)}; give [H, W, 3] or [3, H, W] (several: a list of them)"
        )
    is_first = has_first and (prefers_first or not has_last)
    return np.moveaxis(values, 0, -1) if is_first else values


def _eight_bit(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * MAX_UINT8
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{name} is {values.dtype}; give uint8, or floating point in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise UserError(
            f"{name} lies in [{low:.3g}, {high:.3g}]; give RGB in [0, 1] (of 0..255: images / 255), mean and deviation "
            "not removed"
        )
    return np.rint(values.astype(np.float64) * MAX_UINT8).astype(np.uint8)
