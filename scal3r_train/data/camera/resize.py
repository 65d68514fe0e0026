"""Resizing and cropping: the size a sequence is processed at, and images, depth and intrinsics brought to it.

An image is scaled so that it covers the target, then the centre is cut out. `ResizeRule` chooses the size,
`ResizeAndCrop` does it to one image, `PixelMap` remembers for all frames what was done, so that intrinsics can be
carried both ways. Pixel coordinates are continuous (x right, y down) with (0, 0) at the outer corner of the top-left
pixel, whose centre is (0.5, 0.5); a resize followed by a crop is then exactly
`processed = input * scale + offset`. Shapes: S frames, H W pixels; sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel, UserError

AREA_BELOW = 0.6  # of the input's size
MAX_SIDE = 8192
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]  # of processed images


class ResizeRule(StrictModel):
    """How the processed size follows from the size of a sequence's first image.

    `long_side`: the longer side becomes `size`. `width`: the width does, whatever the height, as the released
    Scal3R does it (portrait photos become much larger than landscape ones); it also rounds the covering size to
    `multiple`, which stretches the image slightly. Both sides are rounded down to a multiple of `multiple`.
    """

    kind: Literal["long_side", "width"] = Field("long_side", description="the side that `size` refers to")
    size: int = Field(
        518, ge=14, le=MAX_SIDE, description="length of that side, rounded down to the multiple [pixels]"
    )
    multiple: int = Field(
        14, gt=0, le=256, description="what both sides are multiples of: the model's patch size [pixels]"
    )

    def target_hw(self, first_hw: tuple[int, int]) -> tuple[int, int]:
        """Processed size (H, W) of a sequence whose first image has size first_hw.

        Raises UserError for an image so narrow that a side would be beyond MAX_SIDE.
        """
        height, width = first_hw
        size = max(self.size // self.multiple, 1) * self.multiple
        if self.kind == "width" or width >= height:
            target = self._down(size * height // width), size
        else:
            target = size, self._down(size * width // height)
        if max(target) > MAX_SIDE:
            raise UserError(
                f"an image of {width}x{height} would be processed at {target[1]}x{target[0]}; no side may be beyond "
                f"{MAX_SIDE}: crop it, or set input.image_hw"
            )
        return target

    @property
    def cover_multiple(self) -> int:
        """What the covering size is rounded to before the crop."""
        return self.multiple if self.kind == "width" else 1

    def _down(self, side: int) -> int:
        return max(side // self.multiple, 1) * self.multiple


@dataclass(frozen=True)
class ResizeAndCrop:
    """The resize and crop of one image: input_hw -> resized_hw -> window of target_hw at (top, left)."""

    input_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    top: int
    left: int
    target_hw: tuple[int, int]

    @classmethod
    def plan(cls, input_hw: tuple[int, int], target_hw: tuple[int, int], multiple: int = 1) -> ResizeAndCrop:
        """Scale to cover target_hw (sides rounded half to even to `multiple`), crop the centre.

        docs/numerics.md#preprocessing.
        """
        height, width = input_hw
        ratio = max(target_hw[0] / height, target_hw[1] / width)
        resized = tuple(max(round(side * ratio / multiple), 1) * multiple for side in (height, width))
        top, left = ((have - want) // 2 for have, want in zip(resized, target_hw, strict=True))
        assert min(top, left) >= 0, f"target {target_hw} is not a multiple of {multiple}"
        return cls(input_hw, (resized[0], resized[1]), top, left, target_hw)

    @classmethod
    def around(
        cls,
        input_hw: tuple[int, int],
        target_hw: tuple[int, int],
        centre_xy: tuple[float, float],
        zoom: float = 1.0,
    ) -> ResizeAndCrop:
        """Scale to cover target_hw and by a zoom >= 1, crop around a point of the input as far as the image reaches.

        Training crops around the principal point, because a pose encoding holds fields of view but no centre.
        """
        height, width = input_hw
        ratio = max(target_hw[0] / height, target_hw[1] / width) * zoom
        resized = tuple(
            max(round(side * ratio), want) for side, want in zip(input_hw, target_hw, strict=True)
        )
        starts = []
        for have, want, side, centre in zip(resized, target_hw, input_hw, centre_xy[::-1], strict=True):
            starts.append(min(max(round(centre * have / side - want / 2), 0), have - want))
        return cls(input_hw, (resized[0], resized[1]), starts[0], starts[1], target_hw)

    def pixel_map(self) -> PixelMap:
        """The same as a map of pixel coordinates, for one frame."""
        height, width = self.input_hw
        scale = torch.tensor([[self.resized_hw[1] / width, self.resized_hw[0] / height]], dtype=torch.float64)
        offset = torch.tensor([[-self.left, -self.top]], dtype=torch.float64)
        return PixelMap(scale, offset, torch.tensor([self.input_hw]))

    def moved(self, intrinsics: np.ndarray) -> np.ndarray:
        """Fx fy cx cy [4] of the input -> of the target, pixel centres at half integers."""
        (height, width), (resized_height, resized_width) = self.input_hw, self.resized_hw
        scaled = intrinsics * np.tile([resized_width / width, resized_height / height], 2)
        return scaled - [0, 0, self.left, self.top]

    def image(self, image: np.ndarray) -> np.ndarray:
        """Image [h, w, 3] uint8 -> [H, W, 3] uint8 with Pillow's bicubic filter, antialiased when shrinking."""
        if self.resized_hw != image.shape[:2]:
            size = self.resized_hw[1], self.resized_hw[0]
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        return image[self.top : self.top + self.target_hw[0], self.left : self.left + self.target_hw[1]]

    def image_fast(self, image: np.ndarray) -> np.ndarray:
        """The same, some times faster, for training: area average when much is dropped, else bicubic on four pixels.

        The image may be of another resolution than input_hw, as a JPEG decoded at half its size is.
        """
        if self.resized_hw != image.shape[:2]:
            is_much_smaller = self.resized_hw[0] < AREA_BELOW * image.shape[0]
            filter_kind = cv2.INTER_AREA if is_much_smaller else cv2.INTER_CUBIC
            image = cv2.resize(image, self.resized_hw[::-1], interpolation=filter_kind)
        return image[self.top : self.top + self.target_hw[0], self.left : self.left + self.target_hw[1]]

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """Depth [h', w'] of the same view at any resolution -> [H, W], nearest: depths are never mixed."""
        index = []
        for have, resized, start, want in zip(
            depth.shape, self.resized_hw, (self.top, self.left), self.target_hw, strict=True
        ):
            nearest = ((np.arange(want) + start + 0.5) * (have / resized)).astype(int)
            index.append(np.minimum(nearest, have - 1))
        return depth.take(index[0], 0).take(index[1], 1)  # twice as fast as depth[np.ix_(*index)]


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


def half_pixel_intrinsics(intrinsics: np.ndarray, pixel_centre: str) -> np.ndarray:
    """Rows fx fy cx cy [..., 4] of a record -> the same with pixel centres at half integers.

    pixel_centre: "half", or "integer" for sources that put the centre of the top-left pixel at (0, 0). The one
    place where conventions meet.
    """
    shift = {"half": 0.0, "integer": 0.5}[pixel_centre]
    return np.asarray(intrinsics, np.float64) + [0, 0, shift, shift]
