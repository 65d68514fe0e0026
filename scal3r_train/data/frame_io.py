"""Reading frames of a sequence from disk. Shapes: S frames, H W pixels.

Images are 8-bit RGB after EXIF rotation; grey images are repeated, transparency is laid over black. 16-bit grey
images are refused: they are depth maps far more often than pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from scal3r_train.config import UserError
from scal3r_train.data.depth_codec import read_depth
from scal3r_train.data.pixel_map import PixelMap
from scal3r_train.data.sequence import Frames, SequenceRecord
from scal3r_train.data.transforms import Cover, ResizeRule, half_pixel_intrinsics

EXIF_ORIENTATION = 274
EXIF_SIDEWAYS = (5, 6, 7, 8)
IMAGE_ERRORS = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path) -> np.ndarray:
    """Decode an image file into [H, W, 3] uint8 RGB, upright.

    Raises UserError naming the file when it is missing, truncated, no image, or a 16-bit (depth) image.
    """
    try:
        with Image.open(path) as image:
            _refuse_depth(image, path)
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
                upright = Image.alpha_composite(black, upright)
            return np.asarray(upright.convert("RGB"))
    except IMAGE_ERRORS as error:
        raise _image_error(path, error) from None


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file after EXIF rotation, from its header alone. Raises as `read_image`."""
    try:
        with Image.open(path) as image:
            _refuse_depth(image, path)
            width, height = image.size
            is_sideways = image.getexif().get(EXIF_ORIENTATION) in EXIF_SIDEWAYS
            return (width, height) if is_sideways else (height, width)
    except IMAGE_ERRORS as error:
        raise _image_error(path, error) from None


def read_frames(
    record: SequenceRecord,
    frame_indices: Sequence[int],
    image_hw: tuple[int, int] | ResizeRule,
    *,
    with_depth: bool = True,
) -> Frames:
    """Read some frames of a sequence, resized to one size, cameras along with them.

    image_hw: the size (H, W), or the rule that gives it from the size of the sequence's first image. Depth is read
    when the sequence has any and with_depth is set. Raises UserError naming the file that cannot be used.
    """
    indices = [int(index) for index in frame_indices]
    assert indices, "no frames asked for"
    assert 0 <= min(indices) <= max(indices) < record.num_frames, f"frames {indices} of {record.num_frames}"
    first_hw = int(record.image_size[0, 0]), int(record.image_size[0, 1])
    target_hw = image_hw.target_hw(first_hw) if isinstance(image_hw, ResizeRule) else image_hw
    multiple = image_hw.cover_multiple if isinstance(image_hw, ResizeRule) else 1
    images, covers = [], []
    for index in indices:
        image = read_image(record.root / record.image[index])
        cover = Cover.plan((image.shape[0], image.shape[1]), target_hw, multiple)
        images.append(torch.from_numpy(cover.image(image).transpose(2, 0, 1).copy()))
        covers.append(cover)
    pixel_map = PixelMap.stack([cover.pixel_map() for cover in covers])
    intrinsics = None
    if record.intrinsics is not None:
        intrinsics = half_pixel_intrinsics(record.intrinsics[indices], record.pixel_centre)
        intrinsics = pixel_map.processed_intrinsics(intrinsics)
    extrinsics = None
    if record.cam_from_world is not None:
        extrinsics = torch.as_tensor(record.cam_from_world[indices], dtype=torch.float64)
    depth = None
    if with_depth and record.depth:
        depths = [_frame_depth(record, index, cover) for index, cover in zip(indices, covers, strict=True)]
        depth = torch.stack(depths)
    return Frames(
        images=torch.stack(images).float() / 255,
        intrinsics=intrinsics,
        extrinsics=extrinsics,
        depth=depth,
        frame_indices=torch.tensor(indices),
        timestamps=torch.as_tensor(record.timestamp[indices], dtype=torch.float64),
        pixel_map=pixel_map,
    )


def _frame_depth(record: SequenceRecord, index: int, cover: Cover) -> torch.Tensor:
    """Depth [H, W] float32 of one frame, zero where it has none or lies beyond max_depth."""
    if not record.depth[index]:
        return torch.zeros(cover.target_hw)
    depth = cover.depth(read_depth(record.root / record.depth[index], record.depth_codec))
    if record.max_depth > 0:
        depth = np.where(depth <= record.max_depth, depth, np.float32(0))
    return torch.from_numpy(np.ascontiguousarray(depth))


def _refuse_depth(image: Image.Image, path: Path) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise UserError(f"{path} is a 16-bit or float image, probably depth; give 8-bit colour images only")


def _image_error(path: Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError):
        return UserError(f"image {path} does not exist; check the index or its root")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"image {path} cannot be read: not an image, or its header is damaged")
    return UserError(f"image {path} cannot be read: {error}")
