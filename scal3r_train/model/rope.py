"""Two-dimensional rotary position embedding (SPEC 3.4).

Shapes: N tokens, D head dimension, h = D / 2 channels per axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines for a list of token positions, shared by all layers with one head dimension.

    Attributes:
        cos, sin: [N, D]; the first half of the channels rotates by row, the second by column.
    """

    cos: Tensor
    sin: Tensor

    def tile(self, num_frames: int) -> RotaryTable:
        """Return the table of `num_frames` frames that all have these positions."""
        return RotaryTable(self.cos.repeat(num_frames, 1), self.sin.repeat(num_frames, 1))


def token_positions(
    grid_height: int, grid_width: int, num_special_tokens: int, device: torch.device
) -> Tensor:
    """Return the (row, column) of every token of a frame, [num_special_tokens + N_patches, 2] int64.

    Special tokens sit at (0, 0), where the rotation is the identity; patches count from (1, 1) (SPEC 3.3).
    """
    rows = torch.arange(1, grid_height + 1, device=device)
    columns = torch.arange(1, grid_width + 1, device=device)
    patches = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    special = torch.zeros(num_special_tokens, 2, dtype=patches.dtype, device=device)
    return torch.cat([special, patches])


def rotary_table(positions: Tensor, head_dim: int, frequency: float, dtype: torch.dtype) -> RotaryTable:
    """Return the rotation of each position, [N, 2] (row, column), for heads of `head_dim` channels.

    Angles are formed in float32 (float64 when `dtype` is float64) and cast to `dtype` before cos and sin.
    """
    angle_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=angle_dtype, device=positions.device) / half
    inverse_frequency = 1.0 / frequency**exponent
    angles = positions.to(angle_dtype)[:, :, None] * inverse_frequency
    angles = torch.cat([angles, angles], dim=-1).flatten(1).to(dtype)
    return RotaryTable(angles.cos(), angles.sin())


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate x, [..., N, D], by the table's [N, D] angles; channel pairs are (i, i + h/2) within each axis."""
    first_u, first_v, second_u, second_v = x.chunk(4, dim=-1)
    swapped = torch.cat([-first_v, first_u, -second_v, second_u], dim=-1)
    return x * table.cos + swapped * table.sin
