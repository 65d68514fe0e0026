"""Two-dimensional rotary position embedding (docs/numerics.md#rope).

Shapes: P tokens of a frame, N = S P tokens of S frames, D head dimension, h = D / 2 channels per axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class RotaryTable(NamedTuple):
    """Cosines and sines for the token positions of a frame, shared by all layers with one head dimension.

    Attributes:
        cos, sin: [P, D]; the first half of the channels rotates by row, the second by column.
    """

    cos: Tensor
    sin: Tensor

    def from_token(self, first: int) -> RotaryTable:
        """Return the table of the tokens from `first` on."""
        return RotaryTable(self.cos[first:], self.sin[first:])


class TokenPositions:
    """Where the tokens of a frame are; makes each rotary table once and keeps it as long as itself."""

    def __init__(self, positions: Tensor) -> None:
        """Take the (row, column) of each token, [P, 2]."""
        self.positions = positions
        self._tables: dict[tuple[int, float, torch.dtype], RotaryTable] = {}

    def table(self, head_dim: int, frequency: float, dtype: torch.dtype) -> RotaryTable | None:
        """Return the table for heads of `head_dim` channels; None when the frequency is 0, which turns it off."""
        if frequency == 0:
            return None
        key = (head_dim, frequency, dtype)
        if key not in self._tables:
            self._tables[key] = rotary_table(self.positions, *key)
        return self._tables[key]


def token_positions(
    grid_height: int, grid_width: int, num_special_tokens: int, device: torch.device
) -> Tensor:
    """Return the (row, column) of every token of a frame, [num_special_tokens + N_patches, 2] int64.

    Special tokens sit at (0, 0), where the rotation is the identity; patches count from (1, 1)
    (docs/numerics.md#tokens).
    """
    rows = torch.arange(1, grid_height + 1, device=device)
    columns = torch.arange(1, grid_width + 1, device=device)
    patches = torch.cartesian_prod(rows, columns)
    special = torch.zeros(num_special_tokens, 2, dtype=patches.dtype, device=device)
    return torch.cat([special, patches])


def rotary_table(positions: Tensor, head_dim: int, frequency: float, dtype: torch.dtype) -> RotaryTable:
    """Return the rotation of each position, [P, 2] (row, column), for heads of `head_dim` channels.

    Angles are formed in float32 (float64 when `dtype` is float64) and cast to `dtype` before cos and sin.
    """
    angle_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=angle_dtype, device=positions.device) / half
    inverse_frequency = 1.0 / frequency**exponent
    angles = positions.to(angle_dtype)[:, :, None] * inverse_frequency
    angles = rearrange(torch.cat([angles, angles], dim=-1), "p uv h -> p (uv h)").to(dtype)
    return RotaryTable(angles.cos(), angles.sin())


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate x, [..., N, D], by the [P, D] angles of each frame; channel pairs are (i, i + h/2) within each axis."""
    frames = rearrange(x, "... (s p) d -> ... s p d", p=len(table.cos))
    first_u, first_v, second_u, second_v = frames.chunk(4, dim=-1)
    swapped = torch.cat([-first_v, first_u, -second_v, second_u], dim=-1)
    return rearrange(frames * table.cos + swapped * table.sin, "... s p d -> ... (s p) d")
