"""The axis-aligned map from input pixels to processed pixels, one per frame.

Shapes: S frames. Pixel coordinates are continuous (x right, y down) with (0, 0) at the outer corner of the
top-left pixel, so its centre is (0.5, 0.5) and a resize followed by a crop is exactly
`processed = input * scale + offset`. Intrinsics are matrices [S, 3, 3] in the same coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelMap:
    """processed_xy = input_xy * scale + offset for each of S frames.

    scale, offset: [S, 2] float64 (x, y); input_hw: [S, 2] int64, size of the input image in pixels.
    """

    scale: Tensor
    offset: Tensor
    input_hw: Tensor

    @classmethod
    def identity(cls, num_frames: int, height: int, width: int) -> PixelMap:
        """Map of images that are used as they are."""
        ones = torch.ones(num_frames, 2, dtype=torch.float64)
        return cls(ones, torch.zeros_like(ones), torch.tensor([[height, width]] * num_frames).reshape(-1, 2))

    @classmethod
    def stack(cls, maps: list[PixelMap]) -> PixelMap:
        """Concatenate maps along the frames."""
        return cls(
            torch.cat([item.scale for item in maps]),
            torch.cat([item.offset for item in maps]),
            torch.cat([item.input_hw for item in maps]),
        )

    def processed_intrinsics(self, input_intrinsics: Tensor) -> Tensor:
        """Intrinsics [S, 3, 3] of the input images -> of the processed images."""
        return self._matrix() @ input_intrinsics.double()

    def input_intrinsics(self, processed_intrinsics: Tensor) -> Tensor:
        """Intrinsics [S, 3, 3] of the processed images -> of the input images."""
        return torch.linalg.inv(self._matrix()) @ processed_intrinsics.double()

    def _matrix(self) -> Tensor:
        matrix = torch.zeros(len(self.scale), 3, 3, dtype=torch.float64)
        matrix[:, 0, 0], matrix[:, 1, 1] = self.scale.unbind(-1)
        matrix[:, :2, 2] = self.offset
        matrix[:, 2, 2] = 1
        return matrix
